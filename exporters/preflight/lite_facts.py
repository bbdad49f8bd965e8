"""Reads a ``.ptl`` in a process of its own: the lite interpreter may crash on a damaged file."""

from __future__ import annotations

import math
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any, cast

from exporters.formats.contract import PHONE_ENGINE
from exporters.formats.pointwise import SAFE_PLACES
from udacisense.base import child
from udacisense.base.child import RESULT, read_in_child, run_child
from udacisense.base.files import ZIP_ERRORS, another_kind, atomic_path
from udacisense.base.records import record, write_record
from udacisense.base.tensors import supported_engines
from udacisense.errors import LoadError


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
    if not _has_bytecode(path):
        raise another_kind(path, "file of the lite interpreter")
    shape = [",".join(str(n) for n in input_shape)] if input_shape else []
    return read_in_child(LiteFacts, "exporters.preflight.lite_facts", path, *shape)


def _has_bytecode(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/bytecode.pkl") for name in archive.namelist())
    except ZIP_ERRORS:
        return False


def backport(path: Path, target: Path, bytecode_version: int) -> None:
    """Write an older bytecode of a ``.ptl``, in a process of its own, and load it once.

    Raises:
        LoadError: PyTorch cannot write that version of this file.
    """
    with tempfile.TemporaryDirectory(prefix="udacisense-backport-") as name:
        made = Path(name, "model.ptl")
        arguments = (str(path.absolute()), str(made), str(bytecode_version))
        failure = run_child("exporters.preflight.lite_facts", Path(name), *arguments, timeout_s=child.READ_S)
        if failure is not None or read_lite(made).bytecode_version != bytecode_version:
            raise LoadError(
                f"{path} cannot be written as bytecode {bytecode_version} ({failure or 'PyTorch wrote another'});"
                " export it again with an older PyTorch."
            )
        with atomic_path(target) as partial:
            shutil.copyfile(made, partial)


def _mobile() -> Any:
    from torch.jit import mobile  # untyped

    return mobile


def _read(path: Path, input_shape: tuple[int, ...] | None) -> LiteFacts:
    import torch

    mobile = _mobile()
    if PHONE_ENGINE in supported_engines():
        torch.backends.quantized.engine = PHONE_ENGINE  # another engine's kernels refuse signed activations
    bytecode = mobile._get_model_bytecode_version(str(path))
    operators = mobile._get_model_ops_and_info(str(path))
    try:
        model = mobile._load_for_lite_interpreter(str(path))
    except RuntimeError:
        # A file with an operator of its own is whole, and it is the table of operators that says so.
        if all(_is_known(name) for name in operators):
            raise
        model = input_shape = None
    with zipfile.ZipFile(path) as archive:
        # File format 6 and up keeps it in a hidden folder.
        name = next(n for n in archive.namelist() if n.partition("/")[2] in {"version", ".data/version"})
        file_format = int(archive.read(name))
    return LiteFacts(
        bytecode_version=int(bytecode),
        file_format_version=file_format,
        operators={name: int(info.num_schema_args or 0) for name, info in sorted(operators.items())},
        small_pointwise=None if input_shape is None else _small_pointwise(model, input_shape),
    )


def _is_known(operator: str) -> bool:
    """Tell whether this PyTorch has an operator, given by its name with overload."""
    import torch

    return bool(torch._C._jit_get_schemas_for_operator(operator.partition(".")[0]))


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


def main(folder: Path, path: str, *arguments: str) -> None:
    """Leave the facts of a file in ``folder``; or write the file anew, given where and in which bytecode."""
    if len(arguments) == 2:
        if not _mobile()._backport_for_mobile(path, arguments[0], int(arguments[1])):
            raise LoadError("PyTorch writes no such bytecode")
    else:
        shape = tuple(int(n) for n in arguments[0].split(",")) if arguments else None
        write_record(folder / RESULT, _read(Path(path), shape))
