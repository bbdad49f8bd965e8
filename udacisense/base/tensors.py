"""Tensors on disk as safetensors, with a full disk reported as any other file would report it."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

# What reading a file raises that is damaged, or of another kind; AttributeError: of a type that this torch lacks.
TENSOR_ERRORS = (SafetensorError, OSError, ValueError, AttributeError)


def supported_engines() -> tuple[str, ...]:
    """Return the quantised engines of this host's PyTorch, best first for this processor."""
    present = [e for e in torch.backends.quantized.supported_engines if e != "none"]
    current = torch.backends.quantized.engine
    return tuple(sorted(present, key=lambda e: (e != current, e)))


def save_tensors(path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors to a file.

    safetensors' own writer leaves a temporary file beside the target when it is killed, and hides the cause of a
    failure; so the bytes are made in memory.

    Raises:
        OSError: the file cannot be written.
    """
    path.write_bytes(safetensors.torch.save(dict(tensors), dict(metadata) if metadata else None))


_DATE = (1980, 1, 1, 0, 0, 0)
# Smaller records are compressed: scales, zero points, names, bytecode. Weights hardly gain by it, and stay as they are.
_STORED_BYTES = 8192


def torchscript_bytes(module: torch.nn.Module, *, extra: Mapping[str, str] | None = None) -> bytes:
    """Return a ``.pt`` file; its bytes depend on the module and ``extra`` (name → text) alone."""
    # Through a stream: given a path, torch repeats the file's name before each of the archive's entries.
    stream = io.BytesIO()
    torch.jit.save(module, stream, _extra_files=dict(extra or {}))  # type: ignore[no-untyped-call]
    return compact(stream.getvalue())


def compact(archive: bytes) -> bytes:
    """Return a ``.pt`` or ``.ptl`` archive with the same records, without those for debugging and without padding.

    PyTorch stores every record by itself and aligned to 64 bytes. Of a network of 40,000 parameters in int8 a quarter
    of the file is padding, zero points and names. Every reader, the phone's included, inflates records: those of code
    always came compressed. What is lost are the lines of Python that an error's message would quote.
    """
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as given, zipfile.ZipFile(packed, "w") as made:
        for entry in given.infolist():
            if entry.filename.endswith(".debug_pkl"):
                continue
            record = zipfile.ZipInfo(entry.filename, date_time=_DATE)
            is_small = entry.file_size < _STORED_BYTES
            record.compress_type = zipfile.ZIP_DEFLATED if is_small else zipfile.ZIP_STORED
            made.writestr(record, given.read(entry), compresslevel=9)
    return packed.getvalue()
