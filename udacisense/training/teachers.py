"""Teachers for distillation that come from a file, and what they said."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from udacisense.base.files import METADATA_KEY, sha256_file
from udacisense.base.progress import Advance
from udacisense.base.records import Signature
from udacisense.data.batches import Batches
from udacisense.errors import InputError, LoadError, cause
from udacisense.models.artifact import load_artifact
from udacisense.models.layers import Resize
from udacisense.training.types import Teacher
from udacisense.zoo.table import ZOO, resolve_artifact


def load_teacher(
    path: Path, student: Signature, *, same_classes: bool = True, allow_factory: str | None = None
) -> Teacher:
    """Load a teacher that answers the student's images, float32 (b, 3, H, W), with logits, float32 (b, C).

    Args:
        path: an artifact's folder, the name of a model that ships, or an ``.onnx`` file that takes RGB pixels 0..255,
            float32 (b, 3, H, W), with its own resize and normalisation inside.
        student: how the images are normalised, and its classes.
        same_classes: C are the student's classes, in its order; an artifact may know more. Else C are the teacher's.
        allow_factory: the one ``package.module:factory`` that the artifact's record may import.

    Raises:
        InputError: the path is neither, or the teacher does not answer the student's classes.
        LoadError: the file cannot be read.
    """
    if resolve_artifact(path).is_dir():
        artifact, model = load_artifact(path, allow_factory=allow_factory)
        own = artifact.signature
        is_fed_alike = (own.mean, own.std, own.size_px) == (student.mean, student.std, student.size_px)
        fed = model if is_fed_alike else Refed(model, own, student)
        return for_classes(fed, path, own.labels, student.labels) if same_classes else fed
    if path.suffix != ".onnx" or not path.is_file():
        raise InputError(
            f"{path} is no teacher; give an artifact's folder, a model that ships ({', '.join(ZOO)}), or an .onnx file "
            "that takes pixels 0-255."
        )
    teacher, wanted = OnnxTeacher(path, student), len(student.labels)
    if same_classes and teacher.num_classes != wanted:
        raise InputError(f"The teacher {path} answers {teacher.num_classes} classes and the data has {wanted}.")
    return teacher


def for_classes(teacher: nn.Module, path: Path, own: Sequence[str], wanted: Sequence[str]) -> nn.Module:
    """Return a teacher that answers the wanted ones of its classes, in their order.

    Raises:
        InputError: it does not know all of them.
    """
    unknown = [label for label in wanted if label not in own]
    if unknown:
        raise InputError(
            f"The teacher {path} does not answer {', '.join(unknown[:5])}, which the data has; its classes are "
            f"{', '.join(own[:5])}{' …' if len(own) > 5 else ''}. Give one that was trained for the data's classes, "
            "or give it as --auxiliary-teacher."
        )
    return teacher if tuple(own) == tuple(wanted) else Rows(teacher, [own.index(label) for label in wanted])


class Rows(nn.Module):
    """A teacher's answers for some of its classes: float32 (b, 3, H, W) → float32 (b, len(rows))."""

    rows: Tensor

    def __init__(self, whole: nn.Module, rows: Sequence[int]) -> None:
        super().__init__()
        self.whole = whole
        self.register_buffer("rows", torch.tensor(rows))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of these classes."""
        logits: Tensor = self.whole(images)
        return logits[:, self.rows]


class Refed(nn.Module):
    """A model that answers images as another one is fed them: of another size, normalised otherwise.

    Args:
        model: the teacher.
        own: what it takes.
        student: what it is given.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, model: nn.Module, own: Signature, student: Signature) -> None:
        super().__init__()
        self.model = model
        self.resize = Resize(own.size_px) if own.size_px != student.size_px else nn.Identity()
        scale = torch.tensor(student.std) / torch.tensor(own.std)
        shift = (torch.tensor(student.mean) - torch.tensor(own.mean)) / torch.tensor(own.std)
        self.register_buffer("scale", scale.view(1, 3, 1, 1))
        self.register_buffer("shift", shift.view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, float32 (b, C), of the student's images, float32 (b, 3, H, W)."""
        logits: Tensor = self.model(self.resize(images * self.scale + self.shift))
        return logits


class OnnxTeacher:
    """An ONNX classifier run by onnxruntime on the CPU.

    It takes RGB pixels 0..255, float32 (b, 3, H, W), and gets the student's images resized to its own H and W, and in
    batches of its own b, where the file fixes these. It answers logits, float32 (b, C).

    Args:
        path: of the file.
        student: how the images are normalised, and their size.

    Raises:
        InputError: it takes or answers something else; the student's first image is tried.
        LoadError: onnxruntime does not load it.
    """

    def __init__(self, path: Path, student: Signature) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Its threads would spin between the batches on the cores that the student trains on.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4  # what it says by itself before it raises
        try:
            self._session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
        except Exception as exc:  # onnxruntime's errors share no base class of their own
            raise LoadError(f"The teacher {path} cannot be loaded ({str(exc).splitlines()[0]}).") from exc
        if METADATA_KEY in self._session.get_modelmeta().custom_metadata_map:
            raise InputError(
                f"{path} was exported by udacisense and takes normalised images, where an .onnx teacher takes pixels "
                "0-255; give the artifact's folder that it was exported from, or the folder reference of its bundle."
            )
        self.fingerprint = sha256_file(path)
        self._mean = torch.tensor(student.mean).view(1, 3, 1, 1)
        self._std = torch.tensor(student.std).view(1, 3, 1, 1)
        given = self._session.get_inputs()[0]
        self._input = given.name
        fixed = dict(zip(("batch", "channels", "height", "width"), given.shape, strict=False))
        self._fixed = {axis: n for axis, n in fixed.items() if isinstance(n, int)}
        self.num_classes = self._tried(path, student.size_px, given.shape)

    def _tried(self, path: Path, size_px: int, taken: Sequence[object]) -> int:
        try:
            answer = self(torch.zeros(2, 3, size_px, size_px))
            if answer.ndim != 2:
                raise InputError(f"it answers {tuple(answer.shape)}")
        except Exception as exc:
            raise InputError(
                f"The teacher {path} takes {tuple(taken)} and does not answer two images of {size_px} px with two rows "
                f"of logits ({cause(exc).rstrip('.')}); an .onnx teacher takes RGB pixels 0-255, float32 (b, 3, H, W)."
            ) from exc
        return answer.shape[1]

    def __call__(self, images: Tensor) -> Tensor:
        """Return logits, float32 (b, C), of normalised images, float32 (b, 3, H, W)."""
        pixels = images.cpu().mul(self._std).add_(self._mean).mul_(255)
        size = (self._fixed.get("height", pixels.shape[2]), self._fixed.get("width", pixels.shape[3]))
        if size != tuple(pixels.shape[2:]):
            pixels = F.interpolate(pixels, size=size, mode="bilinear", align_corners=False)
        answers = [self._answer(part) for part in torch.split(pixels, self._fixed.get("batch", len(pixels)))]
        return torch.from_numpy(np.concatenate(answers)).to(images.device)

    def _answer(self, pixels: Tensor) -> NDArray[np.float32]:
        missing = self._fixed.get("batch", len(pixels)) - len(pixels)
        given = F.pad(pixels, (0, 0, 0, 0, 0, 0, 0, missing)) if missing else pixels.contiguous()
        return np.asarray(self._session.run(None, {self._input: given.numpy()})[0], np.float32)[: len(pixels)]


class Answers:
    """A teacher's answers to views that come round again: asked once about each, and kept in a table on a device.

    Args:
        teacher: on the device, ready to answer.
        batches: whose plans number their views.
        ask_at_once: images that the teacher is asked about together.
    """

    def __init__(self, teacher: Teacher, batches: Batches, *, ask_at_once: int) -> None:
        assert batches.n_rows is not None, "its views come round again"
        self._teacher, self._batches, self._ask_at_once = teacher, batches, ask_at_once
        self._known = torch.zeros(batches.n_rows, dtype=torch.bool)
        self._table: Tensor | None = None

    def prepare(self, advance: Advance) -> None:
        """Ask about the views of the batches' epoch that are not known so far; ``advance`` is told, of no step."""
        plan = self._batches.planned()
        assert plan.rows is not None
        order = self._batches.mine(plan)
        unknown = order[~self._known[plan.rows[order]]]
        if not len(unknown):
            return
        device = self._batches.device
        rows, there = plan.rows[unknown], plan.to(device)
        for chosen, into in zip(*(torch.split(part, self._ask_at_once) for part in (unknown, rows)), strict=True):
            advance(0, note="asking the teacher")
            answer = self._teacher(self._batches.views(chosen.to(device), there))
            if self._table is None:
                self._table = torch.empty(len(self._known), answer.shape[1], dtype=_kept_as(answer), device=device)
            self._table[into.to(device)] = answer.to(self._table)
        self._known[rows] = True

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Return logits, float32 (b, C), of the views ``rows``, int64 (b,)."""
        assert self._table is not None
        return self._table[rows].float()


def _kept_as(answer: Tensor) -> torch.dtype:
    # A thousand classes for a hundred thousand views are 400 MB in 32 bits.
    return torch.float32 if answer.shape[1] <= 100 else torch.float16
