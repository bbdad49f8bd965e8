"""Batches of images: normalised, augmented, repeatable by epoch."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from udacisense.base.records import Signature
from udacisense.data.augment import Policy, augmented
from udacisense.data.images import MEAN, NO_LABEL, STD, Images
from udacisense.errors import InputError


def normalise(pixels: Tensor, *, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> Tensor:
    """Return ``(pixels / 255 - mean) / std`` by channel: float32 (n, 3, H, W) of uint8 (n, 3, H, W)."""
    return _scaled(pixels, _channels(mean, pixels.device), _channels(std, pixels.device))


def _channels(values: Sequence[float], device: torch.device) -> Tensor:
    return torch.tensor(tuple(values), dtype=torch.float32, device=device).view(1, 3, 1, 1)


def _scaled(pixels: Tensor, centre: Tensor, scale: Tensor) -> Tensor:
    return pixels.to(torch.float32).div_(255).sub_(centre).div_(scale)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How one epoch sees n images: all that is random in it, drawn on the CPU, so that every device sees the same."""

    order: Tensor  # int64 (k,), which images, in this order
    shifts: Tensor | None = None  # int64 (n, 2), rows and columns that each moves; None: as they are
    flips: Tensor | None = None  # bool (n,), which are mirrored
    shares: Tensor | None = None  # float32 (n,), of each in its blend with its partner, 1: not blended; None: no blends
    partners: Tensor | None = None  # int64 (n,), and how each partner is moved and mirrored in the blend:
    partner_shifts: Tensor | None = None
    partner_flips: Tensor | None = None
    seeds: Tensor | None = None  # int64 (n,), from which a policy draws how it changes each; None: no such policy
    partner_seeds: Tensor | None = None
    rows: Tensor | None = None  # int64 (n,), number of each one's view, which comes round again; None: seen this once

    def to(self, device: torch.device) -> Plan:
        """Return the plan on a device."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return Plan(**{name: value.to(device) for name, value in given.items() if value is not None})


@dataclass(frozen=True, kw_only=True)
class Blend:
    """What two images a blended one is made of; column 0 is the image itself."""

    shares: Tensor  # float32 (b,), of the image itself
    labels: Tensor  # int64 (b, 2)
    folders: Tensor | None  # int64 (b, 2), class of each by the folder that it lies in


class Batch(tuple[Tensor, Tensor]):
    """Images float32 (b, 3, H, W) and labels int64 (b,), with what training may want to know beside them."""

    rows: Tensor | None  # int64 (b,), see Plan
    blend: Blend | None  # None: nothing to know beside the labels
    highest: int  # the highest label of the data set
    n_labelled: Tensor | None  # labelled images of all processes' batches over their number; None: one process

    def __new__(
        cls,
        images: Tensor,
        labels: Tensor,
        *,
        highest: int,
        rows: Tensor | None = None,
        blend: Blend | None = None,
        n_labelled: Tensor | None = None,
    ) -> Batch:
        """Make a pair with its details."""
        made = super().__new__(cls, (images, labels))
        made.highest, made.rows, made.blend, made.n_labelled = highest, rows, blend, n_labelled
        return made


class Batches:
    """Normalised batches of a data set, repeatable by epoch.

    Order and augmentation depend on ``(seed, epoch)`` alone, and not on what was iterated before: an epoch that is
    resumed in a new process equals an uninterrupted one. Augmentation is drawn per image: a crop from the image
    padded by reflection with H/8 pixels (4 at 32 px; He et al. 2016, section 4.2, with reflection for zeros), and a
    horizontal flip of every second image by chance. Other policies are :func:`udacisense.data.augment.augmented`.

    Args:
        images: what to iterate over.
        batch_size: images a batch; the last one may be smaller. With ``shuffle``, a last batch of a single image
            joins the one before it, because BatchNorm cannot train on one value a channel.
        shuffle: a new order each epoch.
        augment: change the images as ``policy`` says.
        policy: how.
        balance: with ``shuffle``, let each class come equally often in an epoch of as many images: those of small
            classes come several times, and of large ones a part, another one each epoch.
        seed: of order and augmentation.
        mean: of RGB scaled to 0..1.
        std: likewise.

    Raises:
        InputError: ``batch_size`` is less than 1, or ``seed`` is negative.
    """

    n_rows: int | None = None  # different views, where they come round again
    folders: Tensor | None = None  # int64 (n,), class of each image by its folder
    n_folders = 0

    def __init__(
        self,
        images: Images,
        *,
        batch_size: int,
        shuffle: bool = False,
        augment: bool = False,
        policy: Policy = "crop",
        balance: bool = False,
        seed: int = 0,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"The batch size is {batch_size}; allowed is 1 or more.")
        if not 0 <= seed < 2**63:
            raise InputError(f"The seed is {seed}; allowed is 0 to {2**63 - 1}.")
        self.images = images
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.augment, self.policy, self.balance = augment, policy, balance
        self.seed = seed
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.epoch = 0
        self.part = (0, 1)
        self._planned: tuple[int, Plan] | None = None
        self._highest = int(images.labels.max()) if len(images) else NO_LABEL
        self._place(torch.device("cpu"))

    def _place(self, device: torch.device) -> None:
        self.device, self.images = device, self.images.to(device)
        self._centre, self._scale = _channels(self.mean, device), _channels(self.std, device)
        if self.folders is not None:
            self.folders = self.folders.to(device)

    def on(self, device: torch.device, part: tuple[int, int] = (0, 1)) -> Self:
        """Return the same batches with images that live on a device, or process ``part[0]``'s of ``part[1]`` parts.

        Images that are mapped from disk stay there, and each batch is sent to the device.

        Part by part, the images of a batch are dealt out in turn; where they do not go up, the last ones are left out.
        """
        moved = copy.copy(self)
        moved.part = part
        moved._place(device)
        return moved

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, whose order and augmentation the next iteration has."""
        self.epoch = epoch

    def __len__(self) -> int:
        return sum(end - start >= self.part[1] for start, end in self._bounds(len(self.images)))

    def _bounds(self, n: int) -> list[tuple[int, int]]:
        """Return where each batch starts and ends in an order of ``n`` images."""
        joins = self.shuffle and n % self.batch_size == 1 and n > self.batch_size > 1
        starts = range(0, n - 1 if joins else n, self.batch_size)
        return [(start, n if start == starts[-1] else start + self.batch_size) for start in starts]

    def plan(self) -> Plan:
        """Return how the chosen epoch sees the images; on the CPU."""
        n = len(self.images)
        mixed = np.random.SeedSequence([self.seed, self.epoch]).generate_state(2, np.uint32)
        generator = torch.Generator().manual_seed(int(mixed[0]) << 32 | int(mixed[1]))
        order = torch.randperm(n, generator=generator) if self.shuffle else torch.arange(n)
        if self.shuffle and self.balance:
            order = balanced_order(self.images.labels.cpu(), generator)
        if not self.augment:
            return Plan(order=order)
        return Plan(order=order, **self.draws(n, generator))

    def draws(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw how the policy changes each of n images, as a :class:`Plan` has it."""
        if self.policy == "none":
            return {}
        if self.policy == "crop":
            return draw_crops(n, self.images.shape[1], generator)
        return {"seeds": torch.randint(2**62, (n,), generator=generator)}

    def planned(self) -> Plan:
        """Return :meth:`plan`, drawn once an epoch."""
        if self._planned is None or self._planned[0] != self.epoch:
            self._planned = (self.epoch, self.plan())
        return self._planned[1]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        plan = self.planned().to(self.device)
        rank, count = self.part
        for whole in self._wholes(plan):
            yield self._batch(whole[rank::count], plan, whole if count > 1 else None)

    def mine(self, plan: Plan) -> Tensor:
        """Return the images of this process's part of an epoch, int64 (k,), in order."""
        rank, count = self.part
        return torch.cat([whole[rank::count] for whole in self._wholes(plan)])

    def _wholes(self, plan: Plan) -> Iterator[Tensor]:
        """Return the images of each batch of all processes."""
        count = self.part[1]
        for start, end in self._bounds(len(plan.order)):
            if end - start >= count:
                yield plan.order[start : start + (end - start) // count * count]

    def views(self, chosen: Tensor, plan: Plan) -> Tensor:
        """Return images as a plan sees them: float32 (b, 3, H, W), normalised; ``chosen`` is int64 (b,)."""
        pixels = self._changed(chosen, *(_of(plan, name, chosen) for name in ("shifts", "flips", "seeds")))
        if plan.shares is not None and plan.partners is not None:
            names = ("partner_shifts", "partner_flips", "partner_seeds")
            other = self._changed(plan.partners[chosen], *(_of(plan, name, chosen) for name in names))
            share = plan.shares[chosen].view(-1, 1, 1, 1)
            pixels = torch.lerp(other.float(), pixels.float(), share).round_().to(torch.uint8)
        return _scaled(pixels, self._centre, self._scale)

    def _changed(self, chosen: Tensor, shifts: Tensor | None, flips: Tensor | None, seeds: Tensor | None) -> Tensor:
        pixels = self.images.at(chosen).to(self.device)
        if shifts is not None and flips is not None:
            pixels = crop_and_flip(pixels, shifts, flips)
        return pixels if seeds is None else augmented(pixels, seeds, self.policy)

    def _batch(self, chosen: Tensor, plan: Plan, whole: Tensor | None) -> Batch:
        return Batch(
            self.views(chosen, plan),
            self._labels(chosen, plan),
            highest=self._highest,
            rows=None if plan.rows is None else plan.rows[chosen],
            blend=self._blend(chosen, plan),
            n_labelled=None if whole is None else (self._labels(whole, plan) != NO_LABEL).sum() / self.part[1],
        )

    def _labels(self, chosen: Tensor, plan: Plan) -> Tensor:
        labels = self.images.labels[chosen]
        return labels if plan.shares is None else torch.where(plan.shares[chosen] < 1, NO_LABEL, labels)

    def _blend(self, chosen: Tensor, plan: Plan) -> Blend | None:
        if self.folders is None and plan.partners is None:
            return None
        pair = torch.stack([chosen, chosen if plan.partners is None else plan.partners[chosen]], 1)
        return Blend(
            shares=torch.ones_like(chosen, dtype=torch.float32) if plan.shares is None else plan.shares[chosen],
            labels=self.images.labels[pair],
            folders=None if self.folders is None else self.folders[pair],
        )


def _of(plan: Plan, name: str, chosen: Tensor) -> Tensor | None:
    drawn: Tensor | None = getattr(plan, name)
    return None if drawn is None else drawn[chosen]


def evaluation_batches(images: Images, signature: Signature) -> Batches:
    """Return images as a model is measured on them: in their order, unchanged, normalised as it takes them."""
    return Batches(images, batch_size=100, mean=signature.mean, std=signature.std)


def balanced_order(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Draw as many images as there are, of each class equally many, in random order.

    An image comes again when all of its class have come. Counts of 6 and 2 give 4 of the first class, each once, and 4
    of the second, each twice.

    int64 (n,) → int64 (n,).
    """
    classes, n = torch.unique(labels), len(labels)
    lucky = torch.randperm(len(classes), generator=generator) < n % len(classes)  # those with one image more
    drawn = []
    for number, label in enumerate(classes):
        members = (labels == label).nonzero().flatten()
        wanted = n // len(classes) + int(lucky[number])
        rounds = -(-wanted // len(members))
        turns = torch.cat([torch.randperm(len(members), generator=generator) for _ in range(rounds)])
        drawn.append(members[turns[:wanted]])
    return torch.cat(drawn)[torch.randperm(n, generator=generator)]


def draw_crops(n: int, edge: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw the ``shifts`` and ``flips`` of a :class:`Plan` for n images of an edge in pixels."""
    pad = edge // 8
    shifts = torch.randint(-pad, pad + 1, (n, 2), generator=generator)
    return {"shifts": shifts, "flips": torch.rand(n, generator=generator) < 0.5}


def crop_and_flip(pixels: Tensor, shifts: Tensor, flips: Tensor) -> Tensor:
    """Crop from an image padded by reflection, and mirror it; one gather for the whole batch.

    Move each image by (rows, columns), filling by reflection, then mirror where ``flips``.

    uint8 (b, 3, H, W), int64 (b, 2), bool (b,) → uint8 (b, 3, H, W).
    """
    count, _, height, width = pixels.shape
    rows = _reflect(torch.arange(height, device=pixels.device) + shifts[:, :1], height)
    columns = _reflect(torch.arange(width, device=pixels.device) + shifts[:, 1:], width)
    columns = torch.where(flips[:, None], columns.flip(1), columns)
    image = torch.arange(count, device=pixels.device)[:, None, None]
    moved = pixels.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2).contiguous()


def _reflect(indices: Tensor, size: int) -> Tensor:
    """Reflect indices into 0..size-1 without repeating the edge: -1 → 1, size → size-2."""
    last = size - 1
    from_last = torch.sub(last, torch.abs(indices))
    return torch.sub(last, torch.abs(from_last))
