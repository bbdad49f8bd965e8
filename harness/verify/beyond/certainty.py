"""Probabilities held against the float32 master's: calibrated, as sure, and right where they are answered."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.records import Certainty
from harness.verify.compare import FloatArray, IntArray
from udacisense.base.records import UNFITTED, Confidence
from udacisense.measure.confidence import (
    expected_calibration_error,
    margins,
    negative_log_likelihood,
    probabilities,
)

Probabilities = NDArray[np.float64]


def as_probabilities(
    outputs: FloatArray, kind: Literal["logits", "probabilities"], temperature: float
) -> Probabilities:
    """Return a variant's answers (n, C) as probabilities; those that it gives itself are at the temperature already."""
    return outputs.astype(np.float64) if kind == "probabilities" else probabilities(outputs, temperature)


def certainty(
    outputs: FloatArray,
    master: FloatArray,
    labels: IntArray | None,
    *,
    output_kind: Literal["logits", "probabilities"],
    fitted: Confidence | None,
) -> Certainty | None:
    """Return how sure a variant is beside the master; None where an answer is not finite.

    Args:
        outputs: float32 (n, C), the variant's.
        master: float32 (n, C), the float32 master's logits of the same images.
        labels: int64 (n,); None where they are not known.
        output_kind: of the outputs.
        fitted: the manifest's; None: temperature 1, and everything is answered.
    """
    if not np.isfinite(outputs).all():
        return None
    own_fit = fitted or UNFITTED
    temperature, threshold = own_fit.temperature, own_fit.unsure_below
    wanted = probabilities(master, temperature)
    found = as_probabilities(outputs, output_kind, temperature)
    rows, answered = np.arange(len(master)), wanted.argmax(axis=1)
    moved = np.minimum(np.abs(found[rows, answered] - wanted[rows, answered]), 1.0)
    own, reference = _answered(found, labels, threshold), _answered(wanted, labels, threshold)
    return Certainty(
        temperature=temperature,
        threshold=threshold,
        mean_moved=float(moved.mean()),
        most_moved=float(moved.max()),
        answered_fraction=own[0],
        reference_answered_fraction=reference[0],
        answered_top1_fraction=own[1],
        reference_answered_top1_fraction=reference[1],
        calibration_error=None if labels is None else expected_calibration_error(found, labels),
        reference_calibration_error=None if labels is None else expected_calibration_error(wanted, labels),
        log_loss=None if labels is None else negative_log_likelihood(found, labels),
        reference_log_loss=None if labels is None else negative_log_likelihood(wanted, labels),
    )


def _answered(found: Probabilities, labels: IntArray | None, threshold: float) -> tuple[float, float | None]:
    """Return which share is answered, and how much of that is right."""
    is_answered = margins(found) >= threshold
    if labels is None or not is_answered.any():
        return float(is_answered.mean()), None
    return float(is_answered.mean()), float((found.argmax(axis=1) == labels)[is_answered].mean())
