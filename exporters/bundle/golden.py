"""The golden pack: raw pixels → expected input tensor → expected logits → label, to be replayed on any device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from exporters.bundle.manifest import Golden, GoldenImage
from exporters.bundle.precision import deployed
from exporters.source import ExportSource
from udacisense.base.photos import fit_square
from udacisense.base.records import Signature
from udacisense.data.batches import normalise
from udacisense.errors import LoadError
from udacisense.measure.metrics import inference

FOLDER = "golden"
IMAGES = f"{FOLDER}/images.u8"
INPUTS = f"{FOLDER}/inputs.f32"
LOGITS = f"{FOLDER}/logits.f32"

# (width, height) relative to the edge of the input: wider, higher, odd, smaller; each is cropped and resized.
_OTHER_SIZES = ((1.5, 2.0), (2.0, 1.5), (1.0, 2.5), (3.0, 3.0), (1.97, 1.03), (0.75, 1.25))


def write_golden(source: ExportSource, folder: Path) -> Golden:
    """Write the images, inputs and logits below ``folder``.

    Besides the golden images as they are fed, a few are stored in other sizes and aspect ratios, so that whoever
    replays the pack must crop and resize too.
    """
    photos = [np.ascontiguousarray(image) for image in source.golden.pixels.permute(0, 2, 3, 1).numpy()]
    labels: list[int | None] = [None if source.golden_is_drawn else int(label) for label in source.golden.labels]
    for index, (wide, high) in enumerate(_OTHER_SIZES[: len(photos)]):
        size = (round(wide * source.signature.size_px), round(high * source.signature.size_px))
        photos.append(np.array(Image.fromarray(photos[index]).resize(size, Image.Resampling.BICUBIC)))
        labels.append(labels[index])
    inputs = _inputs(photos, source.signature)
    logits = answer(source.model, inputs)
    (folder / FOLDER).mkdir()
    (folder / IMAGES).write_bytes(b"".join(photo.tobytes() for photo in photos))
    write_floats(folder / INPUTS, inputs)
    write_floats(folder / LOGITS, logits)
    offsets = np.cumsum([0, *(photo.size for photo in photos)])
    images = tuple(
        GoldenImage(
            width_px=photo.shape[1],
            height_px=photo.shape[0],
            offset_bytes=int(offset),
            label=label,
            predicted=int(predicted),
        )
        for photo, offset, label, predicted in zip(photos, offsets, labels, logits.argmax(1), strict=False)
    )
    return Golden(images_path=IMAGES, inputs_path=INPUTS, logits_path=LOGITS, images=images)


def answer(model: nn.Module, inputs: Tensor) -> Tensor:
    """Return a model's answers, float32 (n, C), one image at a time as an app feeds them."""
    with inference(model):
        return torch.cat([model(image) for image in torch.split(inputs, 1)])


def expected(classifier: nn.Module, inputs: Tensor, signature: Signature, *, temperature: float | None) -> Tensor:
    """Return what a variant should answer to normalised inputs (pixels are those inputs before normalisation)."""
    return answer(deployed(classifier, signature, normalize=False, temperature=temperature), inputs)


def write_floats(path: Path, values: Tensor) -> None:
    """Write little-endian float32 values, in row-major order."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(values.detach().numpy().astype("<f4").tobytes())


def read_floats(path: Path, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Read what :func:`write_floats` wrote: float32 of ``shape``.

    Raises:
        LoadError: the file is missing or has another length.
    """
    try:
        values = np.fromfile(path, dtype="<f4")
        return values.astype(np.float32).reshape(shape)
    except (OSError, ValueError) as exc:
        raise LoadError(f"{path} does not hold float32 values of shape {shape}: {exc}.") from exc


def _inputs(photos: list[NDArray[np.uint8]], signature: Signature) -> Tensor:
    squares = np.stack([fit_square(Image.fromarray(photo), signature.size_px) for photo in photos])
    pixels = torch.from_numpy(squares).permute(0, 3, 1, 2).contiguous()
    return normalise(pixels, mean=signature.mean, std=signature.std)
