"""Batches for distillation: labelled images, and unlabelled ones that the teacher alone speaks about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from udacisense.base.photos import IMAGE_SUFFIXES
from udacisense.data.augment import Policy
from udacisense.data.batches import Batches, Plan, balanced_order
from udacisense.data.images import MEAN, NO_LABEL, STD, Images, Photos
from udacisense.errors import InputError


def load_transfer(folder: Path, *, size_px: int) -> tuple[Images, tuple[str, ...]]:
    """Load every image under a folder, at any depth, as unlabelled images (label :data:`NO_LABEL`).

    Returns:
        The images, and the name of the folder that each lies in.

    Raises:
        InputError: the folder is missing or holds no image. One that cannot be read is refused when the pixels are
            asked for.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; give --transfer a folder with images (no labels are needed).")
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in IMAGE_SUFFIXES and f.is_file())
    if not files:
        raise InputError(f"{folder} holds no image; --transfer takes a folder with images at any depth.")
    photos = Photos(tuple(files), size_px, "Reading transfer images")
    images = Images(photos, torch.full((len(files),), NO_LABEL))
    return images, tuple(file.parent.name for file in files)


def folder_classes(labels: Tensor, class_names: Sequence[str], folders: Sequence[str]) -> tuple[Tensor, int]:
    """Return one class for each image, labelled ones first, over all class and folder names, and their number.

    A folder that is called as a class is that class.

    Args:
        labels: int64 (n,), of the labelled images.
        class_names: of these labels.
        folders: names of the transfer images' folders.

    Raises:
        InputError: the folders add no class.
    """
    names = [*class_names, *sorted(set(folders) - set(class_names))]
    if len(set(folders)) < 2:
        raise InputError(
            f"The transfer images lie in one folder, {folders[0]!r}, which tells them from nothing; sort them into "
            "folders by what they show, or train without their labels."
        )
    numbers = {name: number for number, name in enumerate(names)}
    return torch.cat([labels, torch.tensor([numbers[name] for name in folders])]), len(names)


@dataclass(frozen=True, kw_only=True)
class _Together(Photos):
    """Labelled and transfer images, one after the other; none is read before pixels are asked for."""

    labelled: Images
    transfer: Images

    @cached_property
    def are_many(self) -> bool:
        """They come into memory."""
        return False

    @cached_property
    def squares(self) -> tuple[Tensor, None]:
        """All of them: uint8 (n, 3, size_px, size_px)."""
        with torch.inference_mode(mode=False):
            return torch.cat([self.labelled.pixels, self.transfer.pixels]), None


_VIEWS = (8, 2)  # of a labelled image, of a transfer image
_MIXED_VIEWS = (16, 3)


class TransferBatches(Batches):
    """Normalised, augmented batches that mix labelled and transfer images, repeatable by epoch.

    An epoch has every labelled image once and ``ratio`` times as many transfer images, which take turns from epoch to
    epoch. Each image is seen in a fixed number of views (crop and flip, drawn from ``seed``), which come round again:
    a teacher whose answers are kept (:class:`udacisense.training.teachers.Answers`) has to look at each view once, and
    still teaches exactly what the student sees ("function matching": Beyer et al. 2022, "Knowledge
    distillation: A good teacher is patient and consistent", section 3.1).

    With ``mix``, that fraction of the images of a view is blended with another image, λ·a + (1-λ)·b with λ uniform in
    0..1 ("mixup": Zhang et al. 2018; the same blend for teacher and student: Beyer et al. 2022, section 3.2). Half of
    the partners are labelled images, half are any. What a blend shows the teacher alone can say: it has no label. A
    student that learns its few labelled images by heart gains most.

    Args:
        labelled: the training images.
        transfer: unlabelled images of the same size; their labels are :data:`NO_LABEL`.
        batch_size: images a batch; a last batch of less than half of that is left out.
        ratio: transfer images for each labelled one, more than 0; an epoch has at most all of them.
        mix: fraction of the images of a view that are blended with another one, 0..1.
        views: different views of a labelled and of a transfer image; None: 8 and 2, with ``mix``, whose views differ
            more, 16 and 3; ``fresh``: new ones in each epoch, for a teacher that answers on the spot.
        folders: class of each image, labelled ones first, by the folder that it lies in, int64 (n,), and their number.
        policy: how views are drawn; see :class:`udacisense.data.batches.Batches`.
        balance: let the labelled images of each class come equally often.
        seed: of order and augmentation.
        mean: of RGB scaled to 0..1.
        std: likewise.

    Raises:
        InputError: a number is out of range, or the two sets have different sizes.
    """

    def __init__(
        self,
        labelled: Images,
        transfer: Images,
        *,
        batch_size: int,
        ratio: float = 3.0,
        mix: float = 0.0,
        views: tuple[int, int] | Literal["fresh"] | None = None,
        folders: tuple[Tensor, int] | None = None,
        policy: Policy = "crop",
        balance: bool = False,
        seed: int = 0,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
    ) -> None:
        n_views = views if isinstance(views, tuple) else _MIXED_VIEWS if mix else _VIEWS
        if min(batch_size, *n_views) < 1 or not 0 < ratio < float("inf") or not 0 <= mix <= 1:
            raise InputError(
                f"Batch size {batch_size}, views {n_views[0]} and {n_views[1]}, transfer ratio {ratio}, mix {mix}: "
                "allowed are 1 or more, a ratio above 0, and 0 to 1 to mix."
            )
        if labelled.shape != transfer.shape:
            raise InputError(
                f"The labelled images are {labelled.shape} and the transfer images "
                f"{transfer.shape}; load both at one size."
            )
        self.n_labelled, self.n_transfer = len(labelled), len(transfer)
        self.n_drawn = min(self.n_transfer, max(1, round(ratio * self.n_labelled)))
        self.n_views, self.mix = n_views, mix
        self.n_rows = None if views == "fresh" else n_views[0] * self.n_labelled + n_views[1] * self.n_transfer
        self.folders, self.n_folders = folders if folders is not None else (None, 0)
        both = _Together(files=(), size_px=labelled.shape[-1], description="", labelled=labelled, transfer=transfer)
        super().__init__(
            Images(both, torch.cat([labelled.labels, transfer.labels])),
            batch_size=batch_size,
            shuffle=True,
            augment=True,
            policy=policy,
            balance=balance,
            seed=seed,
            mean=mean,
            std=std,
        )

    def __len__(self) -> int:
        return sum(end - start >= self.part[1] for start, end in self._bounds(self.n_labelled + self.n_drawn))

    def _bounds(self, n: int) -> list[tuple[int, int]]:
        count, size = max(1, round(n / self.batch_size)), self.batch_size
        return [(start, min(n, start + size)) for start in range(0, count * size, size)]

    def plan(self) -> Plan:
        """Return how the chosen epoch sees the images; on the CPU."""
        turns = -(-self.n_transfer // self.n_drawn)  # epochs until each transfer image has had its turn
        turn, cycle = self.epoch % turns, self.epoch // turns
        first = min(turn * self.n_drawn, self.n_transfer - self.n_drawn)
        in_turn = torch.randperm(self.n_transfer, generator=self._generator(0, cycle))
        drawn = in_turn[first : first + self.n_drawn] + self.n_labelled
        labelled = torch.arange(self.n_labelled)
        if self.balance:
            labelled = balanced_order(self.images.labels[labelled].cpu(), self._generator(3, self.epoch))
        members = torch.cat([labelled, drawn])
        order = members[torch.randperm(len(members), generator=self._generator(1, self.epoch))]
        if self.n_rows is None:
            return Plan(order=order, **self._view(self.epoch))
        n, (ours, theirs) = self.n_labelled, (self.epoch % self.n_views[0], cycle % self.n_views[1])
        rows = [torch.arange(n) + ours * n, torch.arange(self.n_transfer) + self.n_views[0] * n]
        rows[1] += theirs * self.n_transfer
        first_view, second_view = self._view(ours), self._view(theirs)
        return Plan(
            order=order,
            rows=torch.cat(rows),
            **{name: torch.cat([first_view[name][:n], second_view[name][n:]]) for name in first_view},
        )

    def _view(self, view: int) -> dict[str, Tensor]:
        """Draw how all images are seen the ``view``-th time, as a :class:`Plan` has it."""
        generator, n = self._generator(2, view), len(self.images)
        drawn = self.draws(n, generator)
        if not self.mix:
            return drawn
        shares = torch.rand(n, generator=generator)
        shares[torch.rand(n, generator=generator) >= self.mix] = 1.0
        partners = torch.randint(n, (n,), generator=generator)
        labelled = torch.rand(n, generator=generator) < 0.5
        partners[labelled] %= self.n_labelled
        moved = {f"partner_{name}": value[partners] for name, value in drawn.items()}
        return {**drawn, **moved, "shares": shares, "partners": partners}

    def _generator(self, purpose: int, number: int) -> torch.Generator:
        mixed = np.random.SeedSequence([self.seed, purpose, number]).generate_state(2, np.uint32)
        return torch.Generator().manual_seed(int(mixed[0]) << 32 | int(mixed[1]))
