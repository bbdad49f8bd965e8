"""Reads a ``.ptl`` in a process of its own: the lite interpreter may crash on a damaged file.

Run as ``python -m exporters.preflight.lite_facts FILE [N,C,H,W]``; it prints one JSON record.
"""

from __future__ import annotations

import math
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, cast

from exporters.formats.pointwise import SAFE_PLACES
from udacisense.base.child import read_in_child
from udacisense.base.files import ZIP_ERRORS
from udacisense.base.records import record, to_json
from udacisense.errors import LoadError

_TIMEOUT_S = 120.0


@record
class LiteFacts:
    """What a ``.ptl`` needs of its runtime."""

    bytecode_version: int
    file_format_version: int  # of the archive; also the version of its operators' semantics
    operators: dict[str, int]  # name with overload -> arguments that the file passes
    small_pointwise: int | None = None  # 1×1 convolutions on maps of under four places; None: its input is not known


def read_lite(path: Path, *, input_shape: tuple[int, ...] | None = None) -> LiteFacts:
    """Load a ``.ptl`` in a process of its own and return what it needs.

    Args:
        path: the file.
        input_shape: what it takes; it is run once on zeros, to see on which maps its convolutions work.

    Raises:
        LoadError: it is no lite interpreter file, or damaged.
    """
    shape = [",".join(str(n) for n in input_shape)] if input_shape else []
    if not zipfile.is_zipfile(path):
        raise LoadError(
            f"{path} is no file of the lite interpreter, or one that was cut short; export or copy it again."
        )
    return read_in_child(
        LiteFacts,
        "exporters.preflight.lite_facts",
        path,
        *shape,
        reader="the lite interpreter",
        expected="file of the lite interpreter",
        timeout_s=_TIMEOUT_S,
    )


def backport(path: Path, target: Path, bytecode_version: int) -> None:
    """Write an older bytecode of a ``.ptl``, in a process of its own, and load it once.

    Raises:
        LoadError: PyTorch cannot write that version of this file.
    """
    command = [sys.executable, "-m", "exporters.preflight.lite_facts", str(path), str(target), str(bytecode_version)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    if done.returncode != 0 or read_lite(target).bytecode_version != bytecode_version:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise LoadError(
            f"{path} cannot be written as bytecode {bytecode_version} ({(lines or ['the process crashed'])[-1]});"
            " export it again with an older PyTorch."
        )


def _mobile() -> Any:
    from torch.jit import mobile  # untyped

    return mobile


def _read(path: Path, input_shape: tuple[int, ...] | None) -> LiteFacts:
    mobile = _mobile()
    bytecode = mobile._get_model_bytecode_version(str(path))
    operators = mobile._get_model_ops_and_info(str(path))
    model = mobile._load_for_lite_interpreter(str(path))
    with zipfile.ZipFile(path) as archive:
        name = next(n for n in archive.namelist() if n.count("/") == 1 and n.endswith("/version"))
        file_format = int(archive.read(name))
    return LiteFacts(
        bytecode_version=int(bytecode),
        file_format_version=file_format,
        operators={name: int(info.num_schema_args or 0) for name, info in sorted(operators.items())},
        small_pointwise=None if input_shape is None else _small_pointwise(model, input_shape),
    )


def _small_pointwise(model: Any, input_shape: tuple[int, ...]) -> int:
    """Count the calls of PyTorch's own convolution that exporters.formats.pointwise is about."""
    import torch
    from torch.autograd import profiler

    with torch.inference_mode(), cast("Any", profiler).profile(record_shapes=True, use_kineto=False) as run:
        try:
            model(torch.zeros(input_shape))
        except RuntimeError as exc:
            raise RuntimeError(f"it does not run on {input_shape}, which it says it takes") from exc
    shapes = [event.input_shapes for event in run.function_events or () if event.name == "aten::_convolution"]
    return sum(
        1
        for maps, weight, *_ in shapes
        if len(maps) == 4 and math.prod(maps[2:]) < SAFE_PLACES and weight[1] > 1 and weight[2:] == [1, 1]
    )


def _main(arguments: list[str]) -> int:
    try:
        if len(arguments) == 3:
            _mobile()._backport_for_mobile(arguments[0], arguments[1], int(arguments[2]))
        else:
            shape = tuple(int(n) for n in arguments[1].split(",")) if len(arguments) == 2 else None
            sys.stdout.write(to_json(_read(Path(arguments[0]), shape)))
    # PyTorch raises RuntimeError with a C++ stack; its first line is the reason.
    except (*ZIP_ERRORS, ValueError, StopIteration, KeyError) as exc:
        sys.stderr.write(f"{(str(exc).strip().splitlines() or [type(exc).__name__])[0]}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
