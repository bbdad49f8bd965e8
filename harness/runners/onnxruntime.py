"""onnxruntime, ``.onnx`` and ``.ort``: on its CPU provider, which every build has, or on XNNPACK.

Its Android library has XNNPACK; desktop wheels mostly lack it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.runners.table import FloatArray, checked_input, checked_output
from udacisense.base.records import Scalar
from udacisense.errors import InferenceError, InputError, LoadError, cause

if TYPE_CHECKING:
    from exporters.bundle.manifest import Loadable

CPU = "CPUExecutionProvider"
XNNPACK = "XnnpackExecutionProvider"
#: Weights of an .onnx are made unsigned as it is loaded, where int8 sums would saturate (x86 without VNNI); no change
#: on other processors.
EXACT_SUMS = "session.x64quantprecision"
#: What to say of an .ort file that such a processor computes wrongly.
SATURATED = (
    "this processor cannot show whether it is right: on x86 without VNNI onnxruntime's int8 sums saturate, and an .ort "
    "file, unlike an .onnx, cannot be told to avoid it; ARM and other x86 are exact"
)
# Graph optimisation levels, by the name that a cell's engine may have; without one it is onnxruntime's default, all.
LEVELS = {
    "disabled": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}


def unavailable(runner: str) -> str | None:
    """Say how to get onnxruntime where it is missing, and whether it lacks XNNPACK."""
    if find_spec("onnxruntime") is None:
        return "onnxruntime is not installed (pip install onnxruntime)"
    if runner == "onnxruntime":
        return None
    import onnxruntime as ort

    if XNNPACK in ort.get_available_providers():
        return None
    return "this onnxruntime is built without XNNPACK (its Android library has it)"


@functools.cache
def saturates() -> bool:
    """Tell whether onnxruntime's sums of uint8 · int8 saturate on this processor, as on x86 without VNNI."""
    import onnxruntime as ort
    from onnx import TensorProto, helper

    size, largest = 32, 255 * 127
    values = helper.make_tensor("b", TensorProto.INT8, (size, size), [127] * size**2)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["sum"])],
        "saturates",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, (1, size))],
        [helper.make_tensor_value_info("sum", TensorProto.INT32, (1, size))],
        [values],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=[CPU])
    (found,) = session.run(None, {"a": np.full((1, size), 255, np.uint8)})
    return bool((found != size * largest).any())


class OrtSession:
    """An onnxruntime session with one input and one output."""

    def __init__(self, session: Any, variant: Loadable, threads: int, engine: str | None) -> None:
        self._session = session
        self._variant = variant
        self._input = session.get_inputs()[0].name
        self.actual: Mapping[str, Scalar] = {
            "engine": engine,
            "threads": threads,
            "provider": session.get_providers()[0],
        }
        if variant.format == "ort" and variant.precision.startswith("int8") and saturates():
            self.actual = {**self.actual, "saturates": True}  # its weights are packed as they are

    def run(self, batch: FloatArray) -> FloatArray:
        """Answer a batch."""
        inputs = checked_input(batch, self._variant)
        try:
            outputs = self._session.run(None, {self._input: inputs})
        except Exception as exc:
            raise InferenceError(f"{self._variant.id} failed while it ran: {cause(exc)}.") from exc
        return checked_output(outputs[0], batch, self._variant)


def open_session(
    path: Path, variant: Loadable, *, providers: list[Any], threads: int, engine: str | None
) -> OrtSession:
    """Open a file with the providers in order, on ``threads`` intra-op threads; ``engine`` is a key of LEVELS or None.

    Raises:
        InputError: there is no such level.
        LoadError: the file would not load.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    if engine is not None:
        if engine not in LEVELS:
            raise InputError(f"onnxruntime has no graph optimisation level '{engine}'; it has {', '.join(LEVELS)}.")
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, LEVELS[engine])
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only: they come back as exceptions too
    options.add_session_config_entry(EXACT_SUMS, "1")
    try:
        session = ort.InferenceSession(str(path), options, providers=providers)
    except Exception as exc:
        raise LoadError(f"{path.name} would not load in onnxruntime: {cause(exc)}.") from exc
    counts = len(session.get_inputs()), len(session.get_outputs())
    if counts != (1, 1):
        raise LoadError(f"{path.name} has {counts[0]} inputs and {counts[1]} outputs; one of each is expected.")
    return OrtSession(session, variant, threads, engine)


def load(runner: str, path: Path, variant: Loadable, *, engine: str | None, threads: int) -> OrtSession:
    """Load on the provider that the runner names; ``engine`` is a graph optimisation level, or None.

    XNNPACK has a thread pool of its own, and the CPU provider behind it for what it lacks.
    """
    providers: list[Any] = [CPU]
    if runner == "onnxruntime-xnnpack":
        providers.insert(0, (XNNPACK, {"intra_op_num_threads": str(threads)}))
    return open_session(path, variant, providers=providers, threads=threads, engine=engine)
