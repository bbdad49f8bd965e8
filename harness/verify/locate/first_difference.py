"""Two traces held against each other: the first layer whose values leave tolerance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harness.verify.locate.trace import Layer, Trace
from udacisense.base.records import record

FloatArray = NDArray[np.float32]


@record
class LayerError:
    """How far one layer is off: RMS of the difference over RMS of the expected values; None: not finite."""

    expected_name: str
    name: str  # as the suspect calls it
    kind: str
    input_error: float | None
    output_error: float | None


@record
class Suspect:
    """The first place where two traces part."""

    where: str  # in words
    layer: str | None  # the source's name of the layer; None before the first and after the last
    error: float | None  # relative, there
    errors: tuple[LayerError, ...]  # of every layer, in order


def first_difference(expected: Trace, got: Trace, tolerance: float, *, largest_else: bool = False) -> Suspect:
    """Find the first landmark at which ``got`` leaves ``expected`` by more than ``tolerance`` (relative RMS).

    Where the two have unlike layers they are told apart by counting, and the place is the file's structure itself.

    Args:
        expected: of the rung below.
        got: of the suspect.
        tolerance: of a layer.
        largest_else: where no layer leaves tolerance, name the one that adds most; else the fault is behind them all.
    """
    if len(expected.layers) != len(got.layers):
        counts = f"{len(got.layers)} convolutions and linear layers where the source has {len(expected.layers)}"
        where = f"in its structure: {counts}"
        return Suspect(where=where, layer=_first_unlike(expected, got), error=None, errors=())
    errors = tuple(_layer_error(e, g) for e, g in zip(expected.layers, got.layers, strict=True))
    previous: str | None = None
    for error in errors:
        name = error.expected_name
        if _over(error.input_error, tolerance):
            where = f"between {previous} and {name}" if previous else f"before {name}, the first layer"
            return Suspect(where=where, layer=name, error=error.input_error, errors=errors)
        if _over(error.output_error, tolerance):
            where = f"in {name} ({error.kind} {error.name})"
            return Suspect(where=where, layer=name, error=error.output_error, errors=errors)
        previous = name
    if largest_else and errors:
        most = max(errors, key=lambda e: (e.output_error or 0.0) - (e.input_error or 0.0))
        where = f"spread over the layers; most is added in {most.expected_name} ({most.kind} {most.name})"
        return Suspect(where=where, layer=most.expected_name, error=most.output_error, errors=errors)
    last = _finite(relative_error(got.answer, expected.answer))
    where = f"after {previous}, the last layer" if previous else "in a network without layers"
    return Suspect(where=where, layer=previous, error=last, errors=errors)


def _over(error: float | None, tolerance: float) -> bool:
    return error is None or error > tolerance


def _finite(error: float) -> float | None:
    return error if np.isfinite(error) else None


def relative_error(got: FloatArray, expected: FloatArray) -> float:
    """Return RMS of the difference over RMS of ``expected``; infinite for unlike sizes or values not finite."""
    if got.shape != expected.shape:
        if got.size != expected.size:
            return float("inf")
        got = got.reshape(expected.shape)
    if not np.isfinite(got).all():
        return float("inf")
    difference = np.sqrt(np.square(got.astype(np.float64) - expected).mean())
    size = np.sqrt(np.square(expected.astype(np.float64)).mean())
    return float(difference / max(size, 1e-12))


def _layer_error(expected: Layer, got: Layer) -> LayerError:
    return LayerError(
        expected_name=expected.name,
        name=got.name,
        kind=got.kind,
        input_error=_finite(relative_error(got.inputs, expected.inputs)),
        output_error=_finite(min(relative_error(got.outputs, values) for values in _with_activation(expected, got))),
    )


def _with_activation(expected: Layer, got: Layer) -> Sequence[FloatArray]:
    """Return what a layer may answer: mobile kernels clamp at once where the source has an activation behind it."""
    if "clamp" not in got.kind:
        return (expected.outputs,)
    return (expected.outputs, np.maximum(expected.outputs, 0), np.clip(expected.outputs, 0, 6))


def _first_unlike(expected: Trace, got: Trace) -> str | None:
    for e, g in zip(expected.layers, got.layers, strict=False):
        if e.outputs.size != g.outputs.size:
            return e.name
    return expected.layers[len(got.layers)].name if len(got.layers) < len(expected.layers) else None
