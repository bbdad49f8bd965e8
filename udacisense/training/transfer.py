"""Batches for distillation: labelled images, and unlabelled ones that the teacher alone speaks about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from udacisense.data import IMAGE_SUFFIXES, MEAN, STD, Images, crop_and_flip, normalise, read_square
from udacisense.errors import InputError
from udacisense.progress import progress
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


class TransferBatches:
    """Normalised, augmented batches that mix labelled and transfer images, repeatable by epoch.

    An epoch has every labelled image once and ``ratio`` times as many transfer images, which take turns from epoch to
    epoch. Each image is seen in a fixed number of views (crop and flip, drawn from ``seed``), which come round again:
    a teacher that remembers its answers (:class:`udacisense.training.teachers.RememberingTeacher`) has to look at each
    view once, and still teaches exactly what the student sees ("function matching": Beyer et al. 2022, "Knowledge
    distillation: A good teacher is patient and consistent", section 3.1).

    Args:
        labelled: the training images.
        transfer: unlabelled images of the same size; their labels are :data:`NO_LABEL`.
        batch_size: images a batch; a last batch of less than half of that is left out.
        ratio: transfer images for each labelled one, more than 0; an epoch has at most all of them.
        labelled_views: different views of a labelled image.
        transfer_views: different views of a transfer image.
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
        labelled_views: int = 8,
        transfer_views: int = 2,
        seed: int = 0,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
    ) -> None:
        if min(batch_size, labelled_views, transfer_views) < 1 or not 0 < ratio < float("inf"):
            raise InputError(
                f"Batch size {batch_size}, views {labelled_views} and {transfer_views}, transfer ratio {ratio}: "
                "allowed are 1 or more, and a ratio above 0."
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
        self.views = (labelled_views, transfer_views)
        self.mean, self.std = tuple(mean), tuple(std)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return max(1, round((self.n_labelled + self.n_drawn) / self.batch_size))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order, shifts, flips = self._plan()
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            chosen = order[start : start + self.batch_size]
            pixels = crop_and_flip(self.images.pixels[chosen], shifts[chosen], flips[chosen])
            yield normalise(pixels, mean=self.mean, std=self.std), self.images.labels[chosen]

    def _plan(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return this epoch's order, int64 (n,), and every image's shift, int64 (all, 2), and flip, bool (all,)."""
        turns = -(-self.n_transfer // self.n_drawn)  # epochs until each transfer image has had its turn
        turn, cycle = self.epoch % turns, self.epoch // turns
        first = min(turn * self.n_drawn, self.n_transfer - self.n_drawn)
        in_turn = torch.randperm(self.n_transfer, generator=self._generator(0, cycle))
        drawn = in_turn[first : first + self.n_drawn] + self.n_labelled
        members = torch.cat([torch.arange(self.n_labelled), drawn])
        order = members[torch.randperm(len(members), generator=self._generator(1, self.epoch))]
        ours, theirs = (self._view(v) for v in (self.epoch % self.views[0], cycle % self.views[1]))
        is_labelled = torch.arange(len(self.images)) < self.n_labelled
        shifts = torch.where(is_labelled[:, None], ours[0], theirs[0])
        return order, shifts, torch.where(is_labelled, ours[1], theirs[1])

    def _view(self, view: int) -> tuple[Tensor, Tensor]:
        generator, n = self._generator(2, view), len(self.images)
        pad = self.images.pixels.shape[2] // 8
        return torch.randint(-pad, pad + 1, (n, 2), generator=generator), torch.rand(n, generator=generator) < 0.5

    def _generator(self, purpose: int, number: int) -> torch.Generator:
        mixed = np.random.SeedSequence([self.seed, purpose, number]).generate_state(2, np.uint32)
        return torch.Generator().manual_seed(int(mixed[0]) << 32 | int(mixed[1]))
