"""Probabilities held against the float32 master's: calibrated, as sure, and right where they are answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.records import Certainty
from harness.verify.compare import FloatArray, IntArray
from udacisense.base.records import Confidence
from udacisense.measure.confidence import (
    expected_calibration_error,
    margins,
    negative_log_likelihood,
    probabilities,
)

Probabilities = NDArray[np.float64]


@dataclass(frozen=True)
class Believed:
    """Answers as probabilities, and which of them are given: the others are "none of these"."""

    probabilities: Probabilities  # (n, C)
    is_given: NDArray[np.bool_]  # (n,)


def believe(outputs: FloatArray, kind: Literal["logits", "probabilities"], fitted: Confidence) -> Believed:
    """Return finite answers (n, C) as probabilities; a variant's own are at the temperature already."""
    found = outputs.astype(np.float64) if kind == "probabilities" else probabilities(outputs, fitted.temperature)
    return Believed(found, margins(found) >= fitted.unsure_below)


def certainty(own: Believed, master: Believed, labels: IntArray | None, *, fitted: Confidence | None) -> Certainty:
    """Return how sure a variant is beside the master.

    Args:
        own: the variant's answers.
        master: the float32 master's, of the same images.
        labels: int64 (n,); None where they are not known.
        fitted: that both are believed by; None: of a cascade, each member's own.
    """
    found, wanted = own.probabilities, master.probabilities
    rows, answered = np.arange(len(wanted)), wanted.argmax(axis=1)
    moved = np.minimum(np.abs(found[rows, answered] - wanted[rows, answered]), 1.0)
    return Certainty(
        temperature=None if fitted is None else fitted.temperature,
        threshold=None if fitted is None else fitted.unsure_below,
        mean_moved=float(moved.mean()),
        most_moved=float(moved.max()),
        answered_fraction=float(own.is_given.mean()),
        reference_answered_fraction=float(master.is_given.mean()),
        answered_top1_fraction=_right(own, labels),
        reference_answered_top1_fraction=_right(master, labels),
        calibration_error=None if labels is None else expected_calibration_error(found, labels),
        reference_calibration_error=None if labels is None else expected_calibration_error(wanted, labels),
        log_loss=None if labels is None else negative_log_likelihood(found, labels),
        reference_log_loss=None if labels is None else negative_log_likelihood(wanted, labels),
    )


def _right(found: Believed, labels: IntArray | None) -> float | None:
    """Return how much of what is answered is right; None where that is not known, or nothing is."""
    if labels is None or not found.is_given.any():
        return None
    return float((found.probabilities.argmax(axis=1) == labels)[found.is_given].mean())
