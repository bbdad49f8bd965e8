"""Tensors on disk as safetensors, with a full disk reported as any other file would report it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

# What reading a file raises that is damaged, or of another kind; AttributeError: of a type that this torch lacks.
TENSOR_ERRORS = (SafetensorError, OSError, ValueError, AttributeError)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors to a file.

    safetensors' own writer leaves a temporary file beside the target when it is killed, and hides the cause of a
    failure; so the bytes are made in memory.

    Raises:
        OSError: the file cannot be written.
    """
    path.write_bytes(safetensors.torch.save(dict(tensors), dict(metadata) if metadata else None))
