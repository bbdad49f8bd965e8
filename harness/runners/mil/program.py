"""Core ML without a Mac: a saved ``.mlpackage`` read back into its MIL program and evaluated op by op in torch.

The program and its weights come from the package's own files through coremltools' own loader; compressed weights
are expanded by coremltools' own code. Every value has the precision that the file declares: arithmetic is float32
(as Apple's kernels accumulate) and what the file calls fp16 is rounded to fp16 after each operation.

These are reference semantics: the answers that the file asks for. Timings of it mean nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from harness.runners.mil.ops import OPERATORS
from harness.runners.mil.shapes import UnknownOperatorError, Value
from harness.runners.table import FloatArray, checked_input, checked_output
from udacisense.base.records import Scalar
from udacisense.errors import InferenceError, LoadError, cause

if TYPE_CHECKING:
    from exporters.bundle.manifest import Loadable

# Told of every value on the way: its name, its operator, the operator's arguments, and the value.
Visitor = Callable[[str, str, Mapping[str, Value], Tensor], None]

# Operations that evaluation does not run: constants are read, and a classifier's labels are told apart.
_NOT_RUN = ("const", "classify", "constexpr_")


def unavailable(runner: str) -> str | None:  # noqa: ARG001 - the seam
    """Say how to get coremltools where it is missing."""
    return None if find_spec("coremltools") else "coremltools is not installed (pip install coremltools==9.0)"


@dataclass(frozen=True)
class Reference:
    """An argument that another operation computes."""

    name: str


@dataclass(frozen=True)
class Step:
    """One operation: its operator, its arguments (constants, references, or lists of them) and what it leaves."""

    operator: str
    arguments: dict[str, Value]
    outputs: tuple[tuple[str, torch.dtype | None], ...]
    last_uses: tuple[str, ...]  # values that nothing needs after this step


@dataclass(frozen=True)
class Program:
    """A MIL program with one input and one numeric output, in evaluation order."""

    input_name: str
    input_dtype: torch.dtype
    is_bgr: bool  # an image input whose channels the file wants as blue, green, red
    output_name: str
    labels: tuple[str, ...] | None  # of a classifier, in output order
    steps: tuple[Step, ...]

    def evaluate(self, inputs: Tensor, visit: Visitor | None = None) -> Tensor:
        """Answer one batch; ``visit`` sees every value on the way."""
        first = inputs.flip(1) if self.is_bgr else inputs
        values: dict[str, Value] = {self.input_name: _in_precision(first, self.input_dtype)}
        for step in self.steps:
            arguments = {key: _look_up(values, bound) for key, bound in step.arguments.items()}
            result = OPERATORS[step.operator](arguments)
            results = result if isinstance(result, tuple) else (result,)
            for (name, dtype), value in zip(step.outputs, results, strict=True):
                values[name] = _in_precision(value, dtype)
                if visit is not None and isinstance(values[name], Tensor):
                    visit(name, step.operator, arguments, values[name])
            for name in step.last_uses:
                del values[name]
        output = values[self.output_name]
        assert isinstance(output, Tensor)
        return output


def _look_up(values: Mapping[str, Value], bound: Value) -> Value:
    if isinstance(bound, list):
        return [_look_up(values, item) for item in bound]
    return values[bound.name] if isinstance(bound, Reference) else bound


def _in_precision(value: Value, dtype: torch.dtype | None) -> Value:
    if not isinstance(value, Tensor) or dtype is None:
        return value
    if dtype == torch.float16:
        return value.to(torch.float16).to(torch.float32)
    return value.to(dtype)


def read_program(package: Path) -> Program:
    """Read a package's program and weights.

    Raises:
        LoadError: coremltools cannot read it, or it has not one input and one output.
        UnknownOperatorError: it has operators that the evaluator does not know (all are named).
    """
    import coremltools as ct
    from coremltools.converters.mil.frontend.milproto.load import load as load_milproto

    try:
        spec = ct.utils.load_spec(str(package))
        weights = package / "Data" / "com.apple.CoreML" / "weights"
        loaded = load_milproto(spec, specification_version=spec.specificationVersion, file_weights_dir=str(weights))
        function = loaded.functions[loaded.default_function_name]
        live = [op for op in function.operations if not op.op_type.startswith(_NOT_RUN)]
        unknown = sorted({op.op_type for op in live} - set(OPERATORS))
        if unknown:
            raise UnknownOperatorError(unknown)
        return _plan(function, live, spec.description)
    except (LoadError, UnknownOperatorError):
        raise
    except Exception as exc:
        raise LoadError(f"{package.name} would not load as a MIL program: {cause(exc)}.") from exc


def _plan(function: Any, live: list[Any], description: Any) -> Program:
    if len(function.inputs) != 1:
        raise LoadError(f"the package has {len(function.inputs)} inputs; one is expected.")
    (input_name, input_variable), *_ = function.inputs.items()
    output, labels = _numeric_output(function)
    last_use: dict[str, str] = {}
    for op in live:
        last_use.update({variable.name: op.name for variable in _variables(op)})
    steps = tuple(_step(op, last_use, keep=output.name) for op in live)
    image = description.input[0].type.imageType
    is_image = description.input[0].type.WhichOneof("Type") == "imageType"
    return Program(
        input_name=input_name,
        input_dtype=_torch_dtype(input_variable.dtype) or torch.float32,
        is_bgr=is_image and image.colorSpace == image.ColorSpace.Value("BGR"),
        output_name=output.name,
        labels=labels,
        steps=steps,
    )


def _numeric_output(function: Any) -> tuple[Any, tuple[str, ...] | None]:
    for op in function.operations:
        if op.op_type == "classify":
            return op.inputs["probabilities"], tuple(str(item) for item in op.inputs["classes"].val)
    if len(function.outputs) != 1:
        raise LoadError(f"the package has {len(function.outputs)} outputs; one is expected.")
    return function.outputs[0], None


def _variables(op: Any) -> Iterator[Any]:
    """Yield an operation's computed inputs: those without a value of their own."""
    for bound in op.inputs.values():
        for variable in bound if isinstance(bound, list | tuple) else (bound,):
            if variable is not None and _constant(variable) is None:
                yield variable


def _constant(variable: Any) -> Any:
    """Return a constant's value, weights expanded by coremltools where they are compressed; else None."""
    if variable.op is not None and variable.op.op_type.startswith("constexpr_"):
        return variable.op.materialized_val_inference()
    return variable.val


def _step(op: Any, last_use: Mapping[str, str], *, keep: str) -> Step:
    arguments = {key: _argument(bound) for key, bound in op.inputs.items() if bound is not None}
    done = tuple(name for name, user in last_use.items() if user == op.name and name != keep)
    outputs = tuple((variable.name, _torch_dtype(variable.dtype)) for variable in op.outputs)
    return Step(op.op_type, arguments, outputs, done)


def _argument(bound: Any) -> Value:
    if isinstance(bound, list | tuple):
        return [_argument(item) for item in bound]
    value = _constant(bound)
    return Reference(bound.name) if value is None else _as_value(value)


def _as_value(value: Any) -> Value:
    if isinstance(value, str | bool | int | float):
        return value
    array = np.asarray(value)
    if array.dtype.kind in "US":
        return str(array)
    if array.ndim == 0:
        item: bool | int | float = array.item()
        return item
    if array.dtype.kind == "f":
        array = array.astype(np.float32)
    elif array.dtype.kind in "iu":
        array = array.astype(np.int64)
    return torch.from_numpy(np.array(array))


def _torch_dtype(mil_type: Any) -> torch.dtype | None:
    """Map a MIL type; None where values need no rounding to stay what they are."""
    from coremltools.converters.mil.mil import types

    name = types.builtin_to_string(mil_type)
    table = {"fp16": torch.float16, "fp32": torch.float32, "bool": torch.bool}
    if name in table:
        return table[name]
    return torch.int64 if name.startswith(("int", "uint")) else None


class MilSession:
    """A program ready to answer."""

    def __init__(self, program: Program, variant: Loadable, threads: int) -> None:
        self.program = program
        self._variant = variant
        actual: dict[str, Scalar] = {"engine": None, "threads": threads, "provider": "MIL in torch (reference)"}
        if program.labels is not None:
            actual["labels"] = json.dumps(program.labels)
        self.actual: Mapping[str, Scalar] = actual

    def run(self, batch: FloatArray) -> FloatArray:
        """Answer a batch."""
        inputs = torch.from_numpy(checked_input(batch, self._variant))
        try:
            with torch.inference_mode():
                output = self.program.evaluate(inputs)
        except UnknownOperatorError:
            raise
        except Exception as exc:
            raise InferenceError(f"{self._variant.id} failed while it ran: {cause(exc)}.") from exc
        return checked_output(output.to(torch.float32).numpy(), batch, self._variant)


def load(runner: str, path: Path, variant: Loadable, *, engine: str | None, threads: int) -> MilSession:  # noqa: ARG001 - the seam
    """Read a package."""
    torch.set_num_threads(threads)
    return MilSession(read_program(path), variant, threads)
