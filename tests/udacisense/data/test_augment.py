"""Augmentation of photos: a draw for each image, repeatable; and classes that come equally often."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from udacisense.data.augment import augmented, chosen_policy
from udacisense.data.batches import Batches, balanced_order
from udacisense.data.images import Images


def smooth(n: int, size_px: int = 80) -> Tensor:
    """Different images without noise, uint8 (n, 3, size_px, size_px)."""
    coarse = torch.rand(n, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    return (torch.nn.functional.interpolate(coarse, size=size_px, mode="bilinear") * 255).to(torch.uint8)


@pytest.mark.parametrize("policy", ["photo", "randaugment", "trivialaugment"])
def test_an_image_is_changed_by_its_own_seed_alone(policy: str) -> None:
    pixels, seeds = smooth(1).expand(4, -1, -1, -1), torch.tensor([5, 6, 7, 5])
    torch.manual_seed(3)
    expected_next = torch.rand(1)
    torch.manual_seed(3)
    made = augmented(pixels, seeds, policy)  # type: ignore[arg-type]
    assert torch.equal(torch.rand(1), expected_next), "training's own random numbers are left as they were"
    assert (made.shape, made.dtype) == (pixels.shape, torch.uint8)
    assert torch.equal(made[0], made[3])
    assert not torch.equal(made[0], made[1])
    assert torch.equal(augmented(pixels[1:2], seeds[1:2], policy)[0], made[1]), "whatever else is in the batch"  # type: ignore[arg-type]


def test_an_epoch_of_photos_can_be_repeated_and_the_next_is_another() -> None:
    images = Images(smooth(6), torch.arange(6) % 2)
    batches = Batches(images, batch_size=3, shuffle=True, augment=True, policy="photo", seed=4)

    def epoch(number: int) -> Tensor:
        batches.set_epoch(number)
        return torch.cat([pixels for pixels, _ in batches])

    first = epoch(0)
    assert not torch.equal(epoch(1), first)
    assert torch.equal(epoch(0), first)


def test_auto_is_a_photos_policy_from_the_size_on_at_which_a_crop_has_detail() -> None:
    assert [chosen_policy("auto", px) for px in (32, 64, 65, 224)] == ["crop", "crop", "photo", "photo"]
    assert chosen_policy("none", 224) == "none"


@pytest.mark.parametrize(("counts", "drawn"), [((30, 3), (17, 16)), ((10, 10, 1), (7, 7, 7))])
def test_unequal_classes_come_equally_often(counts: tuple[int, ...], drawn: tuple[int, ...]) -> None:
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    order = balanced_order(labels, torch.Generator().manual_seed(0))
    assert sorted(labels[order].bincount().tolist()) == sorted(drawn)
    large = order[labels[order] == 0]
    assert len(large.unique()) == len(large), "an image comes again when all of its class have come"


def test_a_balanced_epoch_follows_the_seed_and_the_epoch() -> None:
    labels = torch.tensor([0] * 18 + [1] * 2)
    batches = Batches(Images(smooth(20, 8), labels), batch_size=5, shuffle=True, balance=True, seed=1)
    first = batches.plan().order
    batches.set_epoch(1)
    assert not torch.equal(batches.plan().order, first)
    assert torch.cat([wanted for _, wanted in batches]).bincount().tolist() == [10, 10]
