"""Photos as phones take them: seven kinds of shift at five severities, and what a classifier loses there.

The severities of noise, blur, JPEG and contrast are those of CIFAR-10-C (Hendrycks and Dietterich 2019, "Benchmarking
Neural Network Robustness to Common Corruptions and Perturbations"); darkness is its brightness, taken away. Rotation
and white balance are not among theirs.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from udacisense.base.records import ShiftAccuracy, Signature
from udacisense.data.batches import evaluation_batches
from udacisense.data.images import Images, spread_rows
from udacisense.measure.metrics import predict

MOST_IMAGES = 200  # that are shifted: each is answered at every severity of every shift
SEVERITIES = 5
_EDGE_PX = 32  # of the images that the blur's severities were made for


def shift_images(pixels: Tensor, name: str, severity: int) -> Tensor:
    """Return images under a shift, the same each time: uint8 (n, 3, H, W) of uint8 (n, 3, H, W).

    Args:
        pixels: RGB.
        name: row of :data:`SHIFTS`.
        severity: 1 to 5.
    """
    amounts, change = SHIFTS[name]
    generator = torch.Generator().manual_seed(severity)
    changed = change(pixels.float() / 255, amounts[severity - 1], generator)
    return (changed.clamp(0, 1) * 255).round().to(torch.uint8)


def all_shifts(pixels: Tensor) -> Tensor:
    """Return the images under every shift and severity: uint8 (7 · 5 · n, 3, H, W), shifts first, then severities."""
    return torch.cat([shift_images(pixels, name, severity) for name in SHIFTS for severity in range(1, SEVERITIES + 1)])


def n_copies() -> int:
    """Return how often an image is answered: at every severity of every shift."""
    return len(SHIFTS) * SEVERITIES


def by_shift(right: np.ndarray) -> tuple[ShiftAccuracy, ...]:
    """Return the accuracy by shift of bool (7, 5, n), in the order of :func:`all_shifts`."""
    means = right.mean(axis=2)
    return tuple(
        ShiftAccuracy(shift=name, top1_fractions=tuple(float(v) for v in row))
        for name, row in zip(SHIFTS, means, strict=True)
    )


def evaluate_shifts(
    model: nn.Module, images: Images, signature: Signature, *, device: str | torch.device
) -> tuple[ShiftAccuracy, ...]:
    """Return a classifier's accuracy by shift, on at most 200 of the images; ``model`` is on ``device``."""
    chosen = images.take(torch.from_numpy(spread_rows(len(images), MOST_IMAGES)))
    labels = chosen.labels.repeat(n_copies())
    batches = evaluation_batches(Images(all_shifts(chosen.pixels), labels), signature)
    right = predict(model, batches, device=device)[0].argmax(1) == labels
    return by_shift(right.numpy().reshape(len(SHIFTS), SEVERITIES, len(chosen)))


def _noise(images: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    return images + amount * torch.randn(images.shape, generator=generator)


def _blur(images: Tensor, amount: float, _: torch.Generator) -> Tensor:
    from torchvision.transforms.functional import gaussian_blur

    sigma = amount * images.shape[-1] / _EDGE_PX
    reach = min(max(1, round(4 * sigma)), images.shape[-1] - 1)
    blurred: Tensor = gaussian_blur(images, [2 * reach + 1] * 2, [sigma, sigma])
    return blurred


def _jpeg(images: Tensor, amount: float, _: torch.Generator) -> Tensor:
    from PIL import Image

    made = []
    for image in (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=int(amount))
        made.append(np.asarray(Image.open(file)))
    return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2).float() / 255


def _darkness(images: Tensor, amount: float, _: torch.Generator) -> Tensor:
    value = images.amax(dim=1, keepdim=True)  # of HSV, which scales the three channels alike
    return images * ((value - amount).clamp(min=0) / value.clamp(min=1e-6))


def _contrast(images: Tensor, amount: float, _: torch.Generator) -> Tensor:
    centre = images.mean(dim=(2, 3), keepdim=True)
    return (images - centre) * amount + centre


def _rotation(images: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    from torchvision.transforms.functional import InterpolationMode, center_crop, pad, rotate

    edge = images.shape[-1]
    wide = pad(images, [edge // 2] * 4, padding_mode="reflect")
    turned = [rotate(one, amount * sign, InterpolationMode.BILINEAR) for one, sign in _signed(wide, generator)]
    cropped: Tensor = center_crop(torch.stack(turned), [edge, edge])
    return cropped


def _white_balance(images: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    gains = [torch.tensor([1 + amount * sign, 1.0, 1 - amount * sign]) for _, sign in _signed(images, generator)]
    return images * torch.stack(gains)[:, :, None, None]


def _signed(images: Tensor, generator: torch.Generator) -> list[tuple[Tensor, int]]:
    signs = torch.randint(0, 2, (len(images),), generator=generator) * 2 - 1
    return list(zip(images, signs.tolist(), strict=True))


Change = Callable[[Tensor, float, torch.Generator], Tensor]
SHIFTS: dict[str, tuple[tuple[float, float, float, float, float], Change]] = {
    "blur": ((0.4, 0.6, 0.7, 0.8, 1.0), _blur),  # standard deviation, px of a 32 px image
    "noise": ((0.04, 0.06, 0.08, 0.09, 0.10), _noise),  # standard deviation, of 0..1
    "JPEG": ((80, 65, 58, 50, 40), _jpeg),  # quality
    "darkness": ((0.05, 0.1, 0.15, 0.2, 0.3), _darkness),  # taken off HSV's value
    "contrast": ((0.75, 0.5, 0.4, 0.3, 0.15), _contrast),  # of the image's own
    "rotation": ((5, 10, 15, 20, 30), _rotation),  # degrees to either side
    "white balance": ((0.05, 0.1, 0.15, 0.2, 0.3), _white_balance),  # red up and blue down, or the other way
}
