"""Shifted photos: what each shift does to a picture that is known, and the order of the answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from udacisense.data.images import Images, make_signature, spread_rows
from udacisense.measure.shifts import MOST_IMAGES, SHIFTS, all_shifts, by_shift, evaluate_shifts, shift_images


@pytest.fixture(scope="module")
def photos() -> torch.Tensor:
    """Smooth colour patches: neither flat nor noise."""
    generator = torch.Generator().manual_seed(0)
    small = torch.rand((6, 3, 4, 4), generator=generator)
    large = torch.nn.functional.interpolate(small, size=(32, 32), mode="bicubic").clamp(0, 1)
    return (large * 255).round().to(torch.uint8)


@pytest.mark.parametrize("name", SHIFTS)
def test_each_severity_is_further_from_the_photo_and_the_same_each_time(photos: torch.Tensor, name: str) -> None:
    made = [shift_images(photos, name, severity) for severity in range(1, 6)]
    assert all(one.shape == photos.shape and one.dtype == torch.uint8 for one in made)
    assert torch.equal(made[2], shift_images(photos, name, 3))
    away = [float((one.float() - photos.float()).abs().mean()) for one in made]
    assert away[0] > 0
    assert away == sorted(away)


def test_what_a_shift_does_is_what_it_is_called(photos: torch.Tensor) -> None:
    before = photos.float()
    dark, flat = shift_images(photos, "darkness", 5).float(), shift_images(photos, "contrast", 5).float()
    assert (before.amax(1) - dark.amax(1)).max() == pytest.approx(0.3 * 255, abs=1)
    assert (flat.std(dim=(2, 3)) / before.std(dim=(2, 3))).mean() == pytest.approx(0.15, abs=0.02)
    noisy = shift_images(torch.full((4, 3, 32, 32), 128, dtype=torch.uint8), "noise", 1).float()
    assert (noisy - 128).std() == pytest.approx(0.04 * 255, rel=0.05)
    red, green, blue = (shift_images(torch.full((8, 3, 8, 8), 100, dtype=torch.uint8), "white balance", 2)).unbind(1)
    assert bool((green == 100).all())
    assert bool((red + blue == 200).all())
    assert {int(v) for v in red.unique()} == {90, 110}


def test_answers_are_told_by_shift_and_severity(photos: torch.Tensor) -> None:
    made = all_shifts(photos)
    assert len(made) == 7 * 5 * len(photos)
    third = (2 * 5 + 4) * len(photos)  # JPEG, severity 5
    assert torch.equal(made[third : third + len(photos)], shift_images(photos, "JPEG", 5))
    right = np.zeros((7, 5, 4), dtype=bool)
    right[2, 4, :3] = True
    found = by_shift(right)
    assert found[2].shift == "JPEG"
    assert found[2].top1_fractions == (0.0, 0.0, 0.0, 0.0, 0.75)


class Bright(torch.nn.Module):
    """Answers class 1 where the mean of an image is over 130 of 255."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        over = images.mean(dim=(1, 2, 3)) - 130 / 255
        return torch.stack([-over, over], dim=1)


def test_a_classifier_of_brightness_loses_in_the_dark_alone() -> None:
    pixels = torch.cat([torch.full((3, 3, 16, 16), 60), torch.full((3, 3, 16, 16), 200)]).to(torch.uint8)
    images = Images(pixels, torch.tensor([0, 0, 0, 1, 1, 1]))
    signature = make_signature(["dark", "bright"], size_px=16, mean=(0, 0, 0), std=(1, 1, 1))
    found = {row.shift: row.top1_fractions for row in evaluate_shifts(Bright(), images, signature, device="cpu")}
    assert found.pop("darkness") == (1.0, 1.0, 1.0, 1.0, 0.5)  # 200 less 0.3 of 255 is 124
    assert set(found.values()) == {(1.0,) * 5}


def test_at_most_two_hundred_images_are_shifted() -> None:
    assert spread_rows(3, MOST_IMAGES).tolist() == [0, 1, 2]
    assert len(spread_rows(1000, MOST_IMAGES)) == 200
    assert spread_rows(1000, MOST_IMAGES)[-1] == 999
