"""Training checkpoints without pickle: one safetensors file, its JSON state in the header.

One file, because one rename replaces it as a whole: a process killed at any moment leaves the checkpoint of the
last finished epoch or, before the first, none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import safe_open
from torch import Tensor, nn

from udacisense.base.display import short_digests
from udacisense.base.files import atomic_path
from udacisense.base.records import Scalar, from_json, record, to_json
from udacisense.base.tensors import TENSOR_ERRORS, save_tensors
from udacisense.errors import InputError, LoadError
from udacisense.training.types import EpochRecord

CHECKPOINT_NAME = "checkpoint.safetensors"
_HEADER_KEY = "state"
_DIGEST_KEY = "sha256"  # of the state and the tensors; checkpoints of old have none


@record
class CheckpointState:
    """What a checkpoint holds beside its tensors."""

    schema_version: Literal[1]
    identity: dict[str, Scalar]  # settings and data; all of it must be equal for a resume
    history: tuple[EpochRecord, ...]  # one a finished epoch
    best_epoch: int
    lr: float
    scheduler: dict[str, int | float]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory; tensors are on the CPU, named ``<group>.<key>``."""

    state: CheckpointState
    tensors: dict[str, Tensor]

    def group(self, name: str) -> dict[str, Tensor]:
        """Return the tensors of one group, without the group's name."""
        prefix = f"{name}."
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}


def save_checkpoint(folder: Path, state: CheckpointState, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Write a checkpoint, replacing the one before it."""
    named = {f"{group}.{k}": _owned(v) for group, values in groups.items() for k, v in values.items()}
    tensors = dict(sorted(named.items()))
    text = to_json(state)
    with atomic_path(folder / CHECKPOINT_NAME) as partial:
        save_tensors(partial, tensors, metadata={_HEADER_KEY: text, _DIGEST_KEY: _digest(text, tensors)})


def load_checkpoint(
    folder: Path, *, identity: Mapping[str, Scalar], former: Mapping[str, Scalar] | None = None
) -> Checkpoint | None:
    """Return the checkpoint in a folder, or None where there is none.

    Args:
        folder: of the run.
        identity: of the run that goes on.
        former: what earlier versions wrote for some of it.

    Raises:
        InputError: it was made with other settings or data (each is named).
        LoadError: the file is no checkpoint.
    """
    path = folder / CHECKPOINT_NAME
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as stream:
            header = stream.metadata() or {}
            tensors = {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118 - no mapping
        text = header.get(_HEADER_KEY, "")
        state = from_json(CheckpointState, text, source=str(path))
        if header.get(_DIGEST_KEY, "") not in ("", _digest(text, dict(sorted(tensors.items())))):
            raise LoadError("its SHA-256 is not the one that it records")
    except (*TENSOR_ERRORS, InputError, LoadError) as exc:
        raise LoadError(f"{path} is no readable checkpoint ({exc}); remove it, or train without resuming.") from exc
    as_now = {**state.identity, **{k: identity.get(k) for k, v in (former or {}).items() if state.identity.get(k) == v}}
    _refuse_other_settings(path, as_now, identity)
    return Checkpoint(state, tensors)


def _refuse_other_settings(path: Path, kept: Mapping[str, Scalar], given: Mapping[str, Scalar]) -> None:
    names = sorted({*kept, *given} - {"device"})  # which changes rounding alone, and was recorded of old
    unlike = [key for key in names if kept.get(key) != given.get(key)]
    if unlike:
        shown = ", ".join(f"{k} = {short_digests(kept.get(k))} (now {short_digests(given.get(k))})" for k in unlike)
        raise InputError(
            f"{path} was made with {shown}; resume with the same settings and data, or start anew "
            "without resuming (--no-resume)."
        )


def _owned(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().clone()


def state_sha256(module: nn.Module) -> str:
    """Return the hex SHA-256 of a module's state: keys, dtypes, shapes and bytes, whatever the memory layout."""
    return _digest("", module.state_dict())


def _digest(text: str, tensors: Mapping[str, object]) -> str:
    digest = hashlib.sha256(text.encode())
    for key, value in tensors.items():
        if not isinstance(value, Tensor):
            digest.update(f"{key} {value}\n".encode())
            continue
        plain = value.dequantize() if value.is_quantized else value
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(plain.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
