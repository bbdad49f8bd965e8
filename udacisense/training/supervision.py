"""What a model learns from beside its labels: teachers, transfer images, and what these show."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from udacisense.base.records import Scalar, Signature, record
from udacisense.data.augment import POLICIES, Policy, chosen_policy
from udacisense.data.batches import Batches
from udacisense.data.images import Images, images_sha256
from udacisense.errors import InputError
from udacisense.training.losses import check_distillation
from udacisense.training.teachers import Rows, load_teacher
from udacisense.training.transfer import TransferBatches, folder_classes, load_transfer
from udacisense.training.types import Auxiliary, Distillation, Teacher


@record
class Supervision:
    """What was asked for, as at the command line; :func:`load_supervision` reads it."""

    teacher: Path | None = None  # an artifact's folder, or an .onnx file that takes pixels 0-255
    temperature: float | None = None  # of the teachers' softmax; None: 3, or the recipe's
    alpha: float | None = None  # weight of the teacher against the labels; None: 0.7, or the recipe's
    transfer: Path | None = None  # a folder of unlabelled images
    transfer_ratio: float = 3.0  # of them for each labelled one in an epoch
    mix: float = 0.0  # fraction of the images that are blended with another one
    transfer_labels: Literal["none", "folders"] = "none"  # what an auxiliary head learns of the transfer images
    auxiliary_teacher: Path | None = None  # whose logits an auxiliary head matches; as ``teacher``, of any classes
    auxiliary_weight: float = 1.0  # of each auxiliary head's loss
    views: int | Literal["fresh"] | None = None  # of each image; None: a few that come round again
    augment: str = "auto"  # a row of udacisense.data.augment.POLICIES
    balance: bool = False  # classes come equally often
    allow_factory: str | None = None  # the one package.module:factory that a teacher's record may import

    def __post_init__(self) -> None:
        """Refuse what needs transfer images and has none, and images that nobody speaks about."""
        if self.transfer is None:
            needing = {"mix": bool(self.mix), "transfer_labels": self.transfer_labels != "none", "views": self.views}
            for name, is_given in needing.items():
                if is_given:
                    raise InputError(f"{name} = {getattr(self, name)} needs transfer images; give their folder.")
        if self.augment not in POLICIES:
            raise InputError(f"augment is {self.augment!r}; allowed is {', '.join(POLICIES)}.")
        check_distillation(
            temperature=1.0 if self.temperature is None else self.temperature,
            alpha=0.0 if self.alpha is None else self.alpha,
        )
        allowed = {
            "transfer_ratio": (0 < self.transfer_ratio < math.inf, "more than 0"),
            "mix": (0 <= self.mix <= 1, "0 to 1"),
            "auxiliary_weight": (0 <= self.auxiliary_weight < math.inf, "0 or more"),
        }
        for name, (is_good, words) in allowed.items():
            if not is_good:
                raise InputError(f"{name} is {getattr(self, name)}; allowed is {words}.")
        if isinstance(self.views, int) and self.views < 1:
            raise InputError(f"views is {self.views}; allowed is 1 or more, or fresh.")

    @property
    def images_for_each(self) -> float:
        """Images of an epoch for each labelled one."""
        return 1.0 + (self.transfer_ratio if self.transfer is not None else 0.0)

    def described(self) -> dict[str, Scalar]:
        """Return what differs from nothing asked, for a record."""
        given = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        return {name: value.name if isinstance(value, Path) else value for name, value in given.items()}

    def distilled_by(self, teacher: Teacher) -> Distillation:
        """Return how a teacher counts: at T = 3 and α = 0.7 where nothing else was asked for."""
        return Distillation(
            teacher=teacher,
            temperature=3.0 if self.temperature is None else self.temperature,
            alpha=0.7 if self.alpha is None else self.alpha,
            remember=self.views != "fresh",
        )


@dataclass(frozen=True, kw_only=True)
class Sources:
    """A :class:`Supervision` that was read."""

    asked: Supervision
    teacher: Teacher | None
    auxiliary: Auxiliary | None
    transfer: Images | None
    folders: tuple[str, ...]  # name of the folder of each transfer image
    policy: Policy  # of augmentation

    @cached_property
    def identity(self) -> str:
        """What training depends on beyond the labelled images and the teacher; empty where nothing was asked."""
        asked = self.asked
        text = "" if self.policy == "crop" else f" augment={self.policy}"
        text += " balance" if asked.balance else ""
        if self.transfer is None:
            return text
        text += f" transfer={images_sha256(self.transfer)} ratio={asked.transfer_ratio}"
        text += f" mix={asked.mix}" if asked.mix else ""
        text += f" folders={'/'.join(sorted(set(self.folders)))}" if asked.transfer_labels == "folders" else ""
        return text + (f" views={asked.views}" if asked.views is not None else "")

    def batches(self, images: Images, signature: Signature, *, batch_size: int, seed: int) -> Batches:
        """Return the training batches: augmented labelled images, with transfer images where there are any.

        Raises:
            InputError: a number is out of range, or the folders tell nothing.
        """
        asked = self.asked
        given: dict[str, Any] = {
            "batch_size": batch_size,
            "policy": self.policy,
            "balance": asked.balance,
            "seed": seed,
            "mean": signature.mean,
            "std": signature.std,
        }
        if self.transfer is None:
            return Batches(images, shuffle=True, augment=True, **given)
        folders: tuple[Tensor, int] | None = None
        if asked.transfer_labels == "folders":
            folders = folder_classes(images.labels, signature.labels, self.folders)
        return TransferBatches(
            images,
            self.transfer,
            ratio=asked.transfer_ratio,
            mix=asked.mix,
            views=(asked.views, asked.views) if isinstance(asked.views, int) else asked.views,
            folders=folders,
            **given,
        )


def load_supervision(asked: Supervision, signature: Signature, *, is_taught: bool) -> Sources:
    """Read teachers and transfer images.

    Args:
        asked: what.
        signature: of the model that is trained.
        is_taught: it has a teacher even if ``asked`` names none.

    Raises:
        InputError, LoadError: a file is missing or does not fit, or nobody says anything of the transfer images.
    """
    speaks = is_taught or asked.teacher is not None or asked.auxiliary_teacher is not None
    if asked.transfer is not None and not speaks and asked.transfer_labels == "none":
        raise InputError(
            "Transfer images have no labels of the data's classes, and nobody says what they show; give a teacher, an "
            "auxiliary teacher, or take labels from their folders."
        )
    if not speaks and (asked.temperature, asked.alpha) != (None, None):
        raise InputError("temperature and alpha say how a teacher counts, and there is none; give --teacher.")
    if asked.transfer is not None and not speaks and asked.views is None:
        asked = replace(asked, views="fresh")  # views come round again for a teacher's sake alone
    teacher, general = _teachers(asked, signature)
    auxiliary: Auxiliary | None = None
    if general is not None or asked.transfer_labels == "folders":
        auxiliary = Auxiliary(
            folders=asked.transfer_labels == "folders",
            teacher=general,
            temperature=1.0 if asked.temperature is None else asked.temperature,
            weight=asked.auxiliary_weight,
            remember=asked.views != "fresh",
        )
    transfer: Images | None = None
    folders: tuple[str, ...] = ()
    if asked.transfer is not None:
        transfer, folders = load_transfer(asked.transfer, size_px=signature.size_px)
    return Sources(
        asked=asked,
        teacher=teacher,
        auxiliary=auxiliary,
        transfer=transfer,
        folders=folders,
        policy=chosen_policy(asked.augment, signature.size_px),
    )


def _teachers(asked: Supervision, signature: Signature) -> tuple[Teacher | None, Teacher | None]:
    """Return the teacher and the auxiliary one; a model that is given as both is loaded, and asked, once."""
    given: dict[str, Any] = {"allow_factory": asked.allow_factory}
    teacher = None if asked.teacher is None else load_teacher(asked.teacher, signature, **given)
    if asked.auxiliary_teacher is None:
        return teacher, None
    if asked.auxiliary_teacher == asked.teacher and isinstance(teacher, Rows):
        return teacher, teacher.whole
    return teacher, load_teacher(asked.auxiliary_teacher, signature, same_classes=False, **given)
