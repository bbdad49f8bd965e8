"""LiteRT's own runtime for Python: ``.tflite``, on XNNPACK as an app has it by default."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.runners.table import FloatArray, checked_input, checked_output
from udacisense.base.records import Scalar
from udacisense.errors import InferenceError, LoadError, cause

if TYPE_CHECKING:
    from exporters.bundle.manifest import Loadable


class LiteRtSession:
    """An interpreter with one input, (N, H, W, 3), and one output."""

    def __init__(self, interpreter: Any, variant: Loadable, threads: int) -> None:
        self._interpreter = interpreter
        self._variant = variant
        self._input = interpreter.get_input_details()[0]["index"]
        self._output = interpreter.get_output_details()[0]["index"]
        self.actual: Mapping[str, Scalar] = {"engine": None, "threads": threads}

    def run(self, batch: FloatArray) -> FloatArray:
        """Answer a batch; its channels go behind, as an app has them from the start."""
        images = np.ascontiguousarray(checked_input(batch, self._variant).transpose(0, 2, 3, 1))
        try:
            self._interpreter.set_tensor(self._input, images)
            self._interpreter.invoke()
            output = self._interpreter.get_tensor(self._output)
        except Exception as exc:
            raise InferenceError(f"{self._variant.id} failed while it ran: {cause(exc)}.") from exc
        return checked_output(output, batch, self._variant)


def load(
    runner: str,  # noqa: ARG001 - the seam
    path: Path,
    variant: Loadable,
    *,
    engine: str | None,  # noqa: ARG001 - LiteRT has no choice of one
    threads: int,
) -> LiteRtSession:
    """Load a ``.tflite``.

    Raises:
        LoadError: it would not load, or has more than one input or output.
    """
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(model_path=str(path), num_threads=threads)
        interpreter.allocate_tensors()
    except Exception as exc:
        raise LoadError(f"{path.name} would not load in LiteRT: {cause(exc)}.") from exc
    counts = len(interpreter.get_input_details()), len(interpreter.get_output_details())
    if counts != (1, 1):
        raise LoadError(f"{path.name} has {counts[0]} inputs and {counts[1]} outputs; one of each is expected.")
    return LiteRtSession(interpreter, variant, threads)
