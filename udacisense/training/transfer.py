"""Batches for distillation: labelled images, and unlabelled ones that the teacher alone speaks about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from udacisense.base.progress import progress
from udacisense.data.batches import crop_and_flip, normalise
from udacisense.data.images import IMAGE_SUFFIXES, MEAN, STD, Images, read_square
from udacisense.errors import InputError
from udacisense.training.losses import NO_LABEL


def load_transfer(folder: Path, *, size_px: int) -> Images:
    """Load every image under a folder, at any depth, as unlabelled images (label :data:`NO_LABEL`).

    Raises:
        InputError: the folder is missing or holds no image, or an image cannot be read (named).
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; give --transfer a folder with images (no labels are needed).")
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in IMAGE_SUFFIXES and f.is_file())
    if not files:
        raise InputError(f"{folder} holds no image; --transfer takes a folder with images at any depth.")
    pixels = np.empty((len(files), size_px, size_px, 3), np.uint8)
    with progress("Reading transfer images", len(files)) as advance:
        for index, file in enumerate(files):
            pixels[index] = read_square(file, size_px)
            advance(1)
    return Images(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), torch.full((len(files),), NO_LABEL))


_VIEWS = (8, 2)  # of a labelled image, of a transfer image
_MIXED_VIEWS = (16, 3)


class _View(NamedTuple):
    """How every image is seen: one row an image."""

    shifts: Tensor  # int64 (n, 2)
    flips: Tensor  # bool (n,)
    shares: Tensor  # float32 (n, 1, 1, 1), λ of the image itself; 1: it is not mixed
    partners: Tensor  # int64 (n,), whom it is mixed with


class TransferBatches:
    """Normalised, augmented batches that mix labelled and transfer images, repeatable by epoch.

    An epoch has every labelled image once and ``ratio`` times as many transfer images, which take turns from epoch to
    epoch. Each image is seen in a fixed number of views (crop and flip, drawn from ``seed``), which come round again:
    a teacher that remembers its answers (:class:`udacisense.training.teachers.RememberingTeacher`) has to look at each
    view once, and still teaches exactly what the student sees ("function matching": Beyer et al. 2022, "Knowledge
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
        labelled_views: different views of a labelled image; None: 8, and 16 with ``mix``, whose views differ more.
        transfer_views: different views of a transfer image; None: 2, and 3 with ``mix``.
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
        labelled_views: int | None = None,
        transfer_views: int | None = None,
        seed: int = 0,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
    ) -> None:
        views = [
            usual if wanted is None else wanted
            for wanted, usual in zip((labelled_views, transfer_views), _MIXED_VIEWS if mix else _VIEWS, strict=True)
        ]
        if min(batch_size, *views) < 1 or not 0 < ratio < float("inf") or not 0 <= mix <= 1:
            raise InputError(
                f"Batch size {batch_size}, views {views[0]} and {views[1]}, transfer ratio {ratio}, mix {mix}: "
                "allowed are 1 or more, a ratio above 0, and 0 to 1 to mix."
            )
        if labelled.pixels.shape[1:] != transfer.pixels.shape[1:]:
            raise InputError(
                f"The labelled images are {tuple(labelled.pixels.shape[1:])} and the transfer images "
                f"{tuple(transfer.pixels.shape[1:])}; load both at one size."
            )
        self.images = Images(
            torch.cat([labelled.pixels, transfer.pixels]), torch.cat([labelled.labels, transfer.labels])
        )
        self.n_labelled, self.n_transfer = len(labelled), len(transfer)
        self.n_drawn = min(self.n_transfer, max(1, round(ratio * self.n_labelled)))
        self.batch_size, self.seed = batch_size, seed
        self.views, self.mix = views, mix
        self.mean, self.std = tuple(mean), tuple(std)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return max(1, round((self.n_labelled + self.n_drawn) / self.batch_size))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order, views = self._plan()
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            chosen = order[start : start + self.batch_size]
            pixels, labels = self._moved(chosen, views), self.images.labels[chosen]
            if self.mix:
                share = views.shares[chosen]
                blended = torch.lerp(self._moved(views.partners[chosen], views).float(), pixels.float(), share)
                pixels = blended.round_().to(torch.uint8)
                labels = torch.where(share.flatten() < 1, NO_LABEL, labels)
            yield normalise(pixels, mean=self.mean, std=self.std), labels

    def _moved(self, chosen: Tensor, views: _View) -> Tensor:
        return crop_and_flip(self.images.pixels[chosen], views.shifts[chosen], views.flips[chosen])

    def _plan(self) -> tuple[Tensor, _View]:
        """Return this epoch's order, int64 (n,), and the view that it has of every image."""
        turns = -(-self.n_transfer // self.n_drawn)  # epochs until each transfer image has had its turn
        turn, cycle = self.epoch % turns, self.epoch // turns
        first = min(turn * self.n_drawn, self.n_transfer - self.n_drawn)
        in_turn = torch.randperm(self.n_transfer, generator=self._generator(0, cycle))
        drawn = in_turn[first : first + self.n_drawn] + self.n_labelled
        members = torch.cat([torch.arange(self.n_labelled), drawn])
        order = members[torch.randperm(len(members), generator=self._generator(1, self.epoch))]
        ours, theirs = (self._view(v) for v in (self.epoch % self.views[0], cycle % self.views[1]))
        n = self.n_labelled
        return order, _View(*(torch.cat([a[:n], b[n:]]) for a, b in zip(ours, theirs, strict=True)))

    def _view(self, view: int) -> _View:
        generator, n = self._generator(2, view), len(self.images)
        pad = self.images.pixels.shape[2] // 8
        shifts = torch.randint(-pad, pad + 1, (n, 2), generator=generator)
        flips = torch.rand(n, generator=generator) < 0.5
        shares = torch.rand(n, generator=generator)
        shares[torch.rand(n, generator=generator) >= self.mix] = 1.0
        partners = torch.randint(n, (n,), generator=generator)
        labelled = torch.rand(n, generator=generator) < 0.5
        partners[labelled] %= self.n_labelled
        return _View(shifts, flips, shares.view(n, 1, 1, 1), partners)

    def _generator(self, purpose: int, number: int) -> torch.Generator:
        mixed = np.random.SeedSequence([self.seed, purpose, number]).generate_state(2, np.uint32)
        return torch.Generator().manual_seed(int(mixed[0]) << 32 | int(mixed[1]))
