"""What goes into a training run and what comes out of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from udacisense.base.records import Scalar, record
from udacisense.errors import InputError
from udacisense.training.compute import Compute
from udacisense.training.losses import check_distillation

Teacher = Callable[[Tensor], Tensor]


class SizedBatches(Protocol):
    """Batches of (images float32 (b, 3, H, W), labels int64 (b,)) whose number is known; a DataLoader is one."""

    def __len__(self) -> int:
        """Return the number of batches."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over one epoch."""


AnyBatches = SizedBatches | Iterable[tuple[Tensor, Tensor]]  # those of validation need no length


@record
class TrainConfig:
    """Settings of one training run. What a person sets by hand has defaults here; nowhere else."""

    epochs: int = 30
    learning_rate: float = 1e-3
    optimizer: Literal["adamw", "sgd"] = "adamw"
    weight_decay: float = 1e-2  # for adamw; sgd wants about 1e-4
    momentum: float = 0.9  # sgd only
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    warmup_epochs: float = 1.0  # linear, from 0; cosine only
    plateau_factor: float = 0.5  # the learning rate is multiplied by this ...
    plateau_patience: int = 2  # ... after more than so many epochs without a lower loss
    label_smoothing: float = 0.0
    early_stopping_patience: int | None = None  # epochs without a better validation result; None: never
    # Which validation figure chooses the epoch. A few hundred images tell 75 from 77 % no better than chance; the loss
    # of a student falls steadily, where that of a network trained on labels grows with its certainty.
    select_by: Literal["top1", "loss"] = "top1"
    ema_decay: float | None = None  # per step, of the averaged weights that are then validated and returned
    channels_last: bool = False
    compute: Compute = field(default_factory=Compute)
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with."""
        allowed = {
            "epochs": (self.epochs >= 1, "1 or more"),
            "learning_rate": (0 < self.learning_rate < math.inf, "more than 0"),
            "optimizer": (self.optimizer in ("adamw", "sgd"), "adamw or sgd"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "0 or more"),
            "momentum": (0 <= self.momentum < 1, "0 to below 1"),
            "schedule": (self.schedule in ("cosine", "plateau", "constant"), "cosine, plateau or constant"),
            "warmup_epochs": (0 <= self.warmup_epochs < math.inf, "0 or more"),
            "plateau_factor": (0 < self.plateau_factor < 1, "between 0 and 1"),
            "plateau_patience": (self.plateau_patience >= 0, "0 or more"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "0 to below 1"),
            "early_stopping_patience": (
                self.early_stopping_patience is None or self.early_stopping_patience >= 1,
                "1 or more",
            ),
            "select_by": (self.select_by in ("top1", "loss"), "top1 or loss"),
            "ema_decay": (self.ema_decay is None or 0 < self.ema_decay < 1, "between 0 and 1"),
            "seed": (0 <= self.seed < 2**32, "0 to 4294967295"),
        }
        for name, (is_good, words) in allowed.items():
            if not is_good:
                raise InputError(f"{name} is {getattr(self, name)}; allowed is {words}.")

    def identity(self) -> dict[str, Scalar]:
        """Return what the result depends on but for rounding: every setting, without what it is computed on."""
        chosen = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "compute"}
        return {**chosen, "device": "cpu"}  # as every kept run has it

    def described(self) -> dict[str, Scalar]:
        """Return every setting for a record."""
        return {**self.identity(), **asdict(self.compute)}


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """A teacher and how much it counts; see :func:`udacisense.training.losses.distillation_loss`.

    The teacher sees each augmented batch as the student does: float32 (b, 3, H, W) → logits (b, C). A module is
    copied to the training device and run in eval mode; any other callable gets the batch on the training device.
    """

    teacher: Teacher
    temperature: float
    alpha: float
    remember: bool = False  # ask once about each view, where the batches' views come round again

    def __post_init__(self) -> None:
        """Refuse settings without meaning."""
        check_distillation(temperature=self.temperature, alpha=self.alpha)


@dataclass(frozen=True, kw_only=True)
class Auxiliary:
    """Heads on the pooled features that train beside the model's own and are dropped afterwards.

    What they learn is what the images show beyond the model's own classes: the name of the folder that each lies in,
    and what a general network answers. Blended images have blended targets.
    """

    folders: bool = False  # a head over the folders that the batches know
    teacher: Teacher | None = None  # a head that matches this one's logits, of any number of classes
    temperature: float = 1.0  # of the teacher's
    remember: bool = False  # as of Distillation
    weight: float = 1.0  # of each head's loss, beside the model's own of 1

    def __post_init__(self) -> None:
        """Refuse settings without meaning."""
        check_distillation(temperature=self.temperature, alpha=0.0)
        if not 0 < self.weight < math.inf:
            raise InputError(f"The weight of auxiliary heads is {self.weight}; allowed is more than 0.")


@dataclass(frozen=True, kw_only=True)
class Keep:
    """Where a run keeps its checkpoint and ``history.json``, after each epoch."""

    folder: Path
    identity: Mapping[str, Scalar] = field(default_factory=dict)  # what else must be equal for a resume
    former: Mapping[str, Scalar] = field(default_factory=dict)  # what earlier versions wrote for some of it
    resume: bool = False  # go on from the checkpoint that is there


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a run is made of beside its model; see :func:`udacisense.training.train`."""

    batches: SizedBatches
    config: TrainConfig
    validation: AnyBatches | None = None
    distillation: Distillation | None = None
    auxiliary: Auxiliary | None = None
    keep: Keep | None = None
    before_epoch: Callable[[nn.Module, int], None] | None = None
    after_epoch: Callable[[EpochRecord], None] | None = None
    is_trained: bool = False  # the model was trained before: its weights stay where no epoch is better

    def __post_init__(self) -> None:
        """Refuse what there is nothing to train with."""
        if self.config.early_stopping_patience is not None and self.validation is None:
            raise InputError("early_stopping_patience needs validation batches; give some, or set it to None.")
        if len(self.batches) == 0:
            raise InputError("There are no training images.")


def on_device(teacher: Teacher, device: torch.device) -> Teacher:
    """Return a teacher ready to answer: a module is copied, moved and put into eval mode."""
    return copy.deepcopy(teacher).to(device).eval() if isinstance(teacher, nn.Module) else teacher


@record
class EpochRecord:
    """One line of a training history."""

    epoch: int  # from 1
    train_loss: float
    validation_loss: float | None  # cross-entropy, without smoothing or teacher; None without a validation split
    validation_top1_fraction: float | None
    lr: float  # at the epoch's last step
    duration_s: float


@record
class History:
    """What happened in each epoch; ``history.json``."""

    epochs: tuple[EpochRecord, ...]
    best_epoch: int  # from 1; its weights are what training returned. 0: those at the start, no epoch was better

    FILE_NAME = "history.json"  # a plain class attribute: no annotation, so no field


@dataclass(frozen=True)
class TrainResult:
    """A trained model, in eval mode on the CPU, and its history."""

    model: nn.Module
    history: History


def best_epoch(history: Iterable[EpochRecord], *, select_by: str = "top1") -> int | None:
    """Return the epoch that the validation images choose; without them the last.

    By ``top1``: the highest top-1, then the lowest loss, then the first. By ``loss``: the other way round.
    """
    best: EpochRecord | None = None
    for epoch in history:
        if best is None or _rank(epoch, select_by) > _rank(best, select_by) or epoch.validation_loss is None:
            best = epoch
    return best.epoch if best is not None else None


def _rank(epoch: EpochRecord, select_by: str) -> tuple[float, float]:
    by_top1 = (epoch.validation_top1_fraction or 0.0, -(epoch.validation_loss or 0.0))
    return by_top1 if select_by == "top1" else by_top1[::-1]


def describe(last: Sequence[EpochRecord], *, of: int | None = None) -> str:
    """Return the last epoch's figures in words."""
    if not last:
        return "first epoch"
    epoch = last[-1]
    words = f"epoch {epoch.epoch}{f'/{of}' if of else ''}: loss {epoch.train_loss:.3f}"
    if epoch.validation_loss is not None and epoch.validation_top1_fraction is not None:
        words += f", validation loss {epoch.validation_loss:.3f}, top-1 {100 * epoch.validation_top1_fraction:.1f} %"
    return f"{words}, lr {epoch.lr:.2g}"
