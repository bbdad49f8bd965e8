"""Augmentation of photos by torchvision's transforms: drawn anew for each image, and repeatable on every device."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

Policy = Literal["none", "crop", "photo", "randaugment", "trivialaugment"]
POLICIES: tuple[str, ...] = ("auto", "none", "crop", "photo", "randaugment", "trivialaugment")
_SMALL_PX = 64  # up to here a photo has no detail that a crop could enlarge
_LEAST_AREA = 0.25  # of a photo, that a crop shows
_COLOUR = 0.2  # brightness, contrast and saturation change by up to this fraction


def chosen_policy(asked: str, size_px: int) -> Policy:
    """Return what ``auto`` means for images of an edge in pixels, and anything else as it is."""
    if asked == "auto":
        return "crop" if size_px <= _SMALL_PX else "photo"
    return asked  # type: ignore[return-value]  # it was checked


def augmented(pixels: Tensor, seeds: Tensor, policy: Policy) -> Tensor:
    """Return images as a policy changes them, where they are: each by a random draw of its own.

    ``photo`` is a random resized crop and a flip (Szegedy et al. 2015), then brightness, contrast and saturation;
    ``randaugment`` (Cubuk et al. 2020) and ``trivialaugment`` (Müller and Hutter 2021) take the place of these three.
    What is random is drawn on the CPU from an image's seed: it depends on no other image, and on no device.

    uint8 (b, 3, H, W), int64 (b,) → uint8 (b, 3, H, W).
    """
    change = _transform(policy, pixels.shape[-1])
    with torch.random.fork_rng([]):
        return torch.stack([_seeded(change, image, seed) for image, seed in zip(pixels, seeds.tolist(), strict=True)])


def _seeded(change: Callable[[Tensor], Tensor], image: Tensor, seed: int) -> Tensor:
    torch.default_generator.manual_seed(seed)
    return change(image)


@lru_cache(maxsize=8)
def _transform(policy: Policy, size_px: int) -> Callable[[Tensor], Tensor]:
    from torchvision.transforms import v2  # a second, which small images do without

    colour = {
        "photo": lambda: v2.ColorJitter(_COLOUR, _COLOUR, _COLOUR),
        "randaugment": v2.RandAugment,
        "trivialaugment": v2.TrivialAugmentWide,
    }[policy]()
    crop = v2.RandomResizedCrop(size_px, scale=(_LEAST_AREA, 1.0), antialias=True)
    made: Callable[[Tensor], Tensor] = v2.Compose([crop, v2.RandomHorizontalFlip(), colour])
    return made
