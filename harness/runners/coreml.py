"""Core ML itself: ``.mlpackage`` on macOS, where Apple's framework runs it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.runners.table import FloatArray, checked_input, checked_output
from udacisense.base.records import Scalar
from udacisense.errors import InferenceError, LoadError, cause

if TYPE_CHECKING:
    from exporters.bundle.manifest import Loadable


def unavailable(runner: str) -> str | None:  # noqa: ARG001 - the seam
    """Core ML runs on Apple's systems only."""
    return None if sys.platform == "darwin" else "needs macOS"


class CoreMLSession:
    """A compiled model; pixel inputs are handed over as images, one at a time."""

    def __init__(self, model: Any, variant: Loadable, threads: int) -> None:
        description = model.get_spec().description
        self._model = model
        self._variant = variant
        self._input = description.input[0].name
        self._is_image = description.input[0].type.WhichOneof("Type") == "imageType"
        self._output = description.predictedProbabilitiesName or description.output[0].name
        self._labels = list(_class_labels(model.get_spec()))
        # Core ML chooses its threads and its compute units; what was asked for is all that can be told.
        self.actual: Mapping[str, Scalar] = {"engine": None, "threads": threads, "provider": "ComputeUnit.ALL"}

    def run(self, batch: FloatArray) -> FloatArray:
        """Answer a batch."""
        inputs = checked_input(batch, self._variant)
        try:
            if self._is_image:
                output = np.concatenate([self._answer(_as_image(one)) for one in inputs])
            else:
                output = self._answer(inputs)
        except Exception as exc:
            raise InferenceError(f"{self._variant.id} failed while it ran: {cause(exc)}.") from exc
        return checked_output(output, batch, self._variant)

    def _answer(self, value: object) -> FloatArray:
        answer = self._model.predict({self._input: value})[self._output]
        if isinstance(answer, dict):  # a classifier answers {label: probability}
            answer = np.asarray([[answer[label] for label in self._labels]])
        return np.asarray(answer, dtype=np.float32)


def _as_image(one: FloatArray) -> object:
    from PIL import Image

    return Image.fromarray(one.transpose(1, 2, 0).round().astype(np.uint8), mode="RGB")


def _class_labels(spec: Any) -> tuple[str, ...]:
    for operation in _operations(spec):
        if operation.type == "classify":
            values = operation.inputs["classes"].arguments[0].value.immediateValue.list.values
            return tuple(v.immediateValue.tensor.strings.values[0] for v in values)
    return ()


def _operations(spec: Any) -> list[Any]:
    functions = spec.mlProgram.functions
    return [op for f in functions.values() for block in f.block_specializations.values() for op in block.operations]


def load(runner: str, path: Path, variant: Loadable, *, engine: str | None, threads: int) -> CoreMLSession:  # noqa: ARG001 - the seam
    """Compile and load a package."""
    import coremltools as ct

    try:
        model = ct.models.MLModel(str(path), compute_units=ct.ComputeUnit.ALL)
    except Exception as exc:
        raise LoadError(f"{path.name} would not load in Core ML: {cause(exc)}.") from exc
    return CoreMLSession(model, variant, threads)
