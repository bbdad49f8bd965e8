"""onnxruntime on its CPU provider: ``.onnx`` and ``.ort``."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.runners import FloatArray, checked_input, checked_output, first_line
from udacisense.errors import InferenceError, InputError, LoadError
from udacisense.types import Scalar

if TYPE_CHECKING:
    from exporters.manifest import Variant

CPU = "CPUExecutionProvider"
# Graph optimisation levels, by the name that a cell's engine may have; without one it is onnxruntime's default, all.
LEVELS = {
    "disabled": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}


def unavailable() -> str | None:
    """Say how to get onnxruntime where it is missing."""
    return None if find_spec("onnxruntime") else "onnxruntime is not installed (pip install onnxruntime)"


class OrtSession:
    """An onnxruntime session with one input and one output."""

    def __init__(self, session: Any, variant: Variant, threads: int, engine: str | None) -> None:
        self._session = session
        self._variant = variant
        self._input = session.get_inputs()[0].name
        self.actual: Mapping[str, Scalar] = {
            "engine": engine,
            "threads": threads,
            "provider": session.get_providers()[0],
        }

    def run(self, batch: FloatArray) -> FloatArray:
        """Answer a batch."""
        inputs = checked_input(batch, self._variant)
        try:
            outputs = self._session.run(None, {self._input: inputs})
        except Exception as exc:
            raise InferenceError(f"{self._variant.id} failed while it ran: {first_line(exc)}.") from exc
        return checked_output(outputs[0], batch, self._variant)


def open_session(path: Path, variant: Variant, *, providers: list[Any], threads: int, engine: str | None) -> OrtSession:
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
    try:
        session = ort.InferenceSession(str(path), options, providers=providers)
    except Exception as exc:
        raise LoadError(f"{path.name} would not load in onnxruntime: {first_line(exc)}.") from exc
    counts = len(session.get_inputs()), len(session.get_outputs())
    if counts != (1, 1):
        raise LoadError(f"{path.name} has {counts[0]} inputs and {counts[1]} outputs; one of each is expected.")
    return OrtSession(session, variant, threads, engine)


def load(path: Path, variant: Variant, *, engine: str | None, threads: int) -> OrtSession:
    """Load on the CPU provider, which every onnxruntime has; ``engine`` is a graph optimisation level, or None."""
    return open_session(path, variant, providers=[CPU], threads=threads, engine=engine)
