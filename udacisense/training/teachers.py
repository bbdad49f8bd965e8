"""Teachers for distillation that come from a file, and one that remembers what it said."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from udacisense.base.files import sha256_file
from udacisense.data.images import MEAN, STD
from udacisense.errors import InputError, LoadError
from udacisense.models.artifact import load_artifact
from udacisense.training.types import Teacher


def load_teacher(
    path: Path,
    *,
    num_classes: int,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
    allow_factory: str | None = None,
) -> Teacher:
    """Load a teacher that answers normalised images, float32 (b, 3, H, W), with logits, float32 (b, C).

    Args:
        path: an artifact's folder, or an ``.onnx`` file that takes RGB pixels 0..255, float32 (b, 3, H, W), with its
            own resize and normalisation inside.
        num_classes: C that the student has.
        mean: with which the batches are normalised (of RGB scaled to 0..1).
        std: likewise.
        allow_factory: the one ``package.module:factory`` that the artifact's record may import.

    Raises:
        InputError: the path is neither, or the teacher answers another number of classes.
        LoadError: the file cannot be read.
    """
    if path.is_dir():
        artifact, model = load_artifact(path, allow_factory=allow_factory)
        classes: object = len(artifact.signature.labels)
        teacher: Teacher = model
    elif path.suffix == ".onnx" and path.is_file():
        teacher = OnnxTeacher(path, mean=mean, std=std)
        classes = teacher.num_classes
    else:
        raise InputError(f"{path} is no teacher; give an artifact's folder, or an .onnx file that takes pixels 0-255.")
    if isinstance(classes, int) and classes != num_classes:
        raise InputError(f"The teacher {path} answers {classes} classes and the data has {num_classes}.")
    return teacher


class OnnxTeacher:
    """An ONNX classifier run by onnxruntime on the CPU; it takes RGB pixels 0..255."""

    def __init__(self, path: Path, *, mean: Sequence[float], std: Sequence[float]) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Its threads would spin between the batches on the cores that the student trains on.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
        except Exception as exc:  # onnxruntime's errors share no base class of their own
            raise LoadError(f"The teacher {path} cannot be loaded ({str(exc).splitlines()[0]}).") from exc
        self.fingerprint = sha256_file(path)
        self._input = self._session.get_inputs()[0].name
        self.num_classes = self._session.get_outputs()[0].shape[-1]  # text where the file leaves it open
        self._mean = torch.tensor(tuple(mean)).view(1, 3, 1, 1)
        self._std = torch.tensor(tuple(std)).view(1, 3, 1, 1)

    def __call__(self, images: Tensor) -> Tensor:
        """Return logits, float32 (b, C), of normalised images, float32 (b, 3, H, W)."""
        pixels = images.cpu().mul(self._std).add_(self._mean).mul_(255).contiguous()
        answer = self._session.run(None, {self._input: pixels.numpy()})[0]
        return torch.from_numpy(np.asarray(answer, np.float32)).to(images.device)


class RememberingTeacher:
    """A teacher that is asked once about each image; the same pixels get the same answer from memory.

    It pays where views come round again (:class:`udacisense.training.transfer.TransferBatches`). It keeps a 16-byte
    hash and C floats for each different image: some 10 MB for 100,000 images and ten classes.
    """

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher.eval() if isinstance(teacher, nn.Module) else teacher
        self._answers: dict[bytes, Tensor] = {}
        found = getattr(teacher, "fingerprint", None)
        if isinstance(teacher, nn.Module):
            from udacisense.training.checkpoint import state_sha256

            found = state_sha256(teacher)
        self.fingerprint = found

    def __call__(self, images: Tensor) -> Tensor:
        """Return logits, float32 (b, C), of images, float32 (b, 3, H, W)."""
        rows = images.detach().cpu().contiguous().numpy()
        keys = [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows]
        unknown = [index for index, key in enumerate(keys) if key not in self._answers]
        if unknown:
            answers = self._teacher(images[unknown]).cpu()
            self._answers.update((keys[index], answer) for index, answer in zip(unknown, answers, strict=True))
        return torch.stack([self._answers[key] for key in keys]).to(images.device)
