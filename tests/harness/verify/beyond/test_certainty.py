"""How sure a variant is beside the master: by hand, and where the decisions hide it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from harness.records import Certainty
from harness.verify.beyond.certainty import believe, certainty
from harness.verify.compare import compare
from harness.verify.limits import LIMITS, out_of_limits
from udacisense.base.records import UNFITTED, Confidence
from udacisense.measure.confidence import probabilities

MASTER = np.asarray([(3, 1, 0), (0, 2, 1.5), (0, 1, 5), (4, 0, 0)], dtype=np.float32)
LABELS = np.asarray([0, 1, 2, 1])
FITTED = Confidence(temperature=2.0, rule="margin", unsure_below=0.2, n_images=10)


def sure_of(outputs: np.ndarray, labels: np.ndarray | None, *, kind: str = "logits", fitted: Confidence) -> Certainty:
    """Held against the master by the same fit."""
    own, master = believe(outputs, kind, fitted), believe(MASTER, "logits", fitted)  # type: ignore[arg-type]
    return certainty(own, master, labels, fitted=fitted)


def test_a_file_that_answers_alike_moves_nothing_and_leaves_the_unsure_image_out() -> None:
    found = sure_of(MASTER, LABELS, fitted=FITTED)
    assert (found.mean_moved, found.most_moved, found.temperature) == (0.0, 0.0, 2.0)
    assert found.answered_fraction == found.reference_answered_fraction == 0.75  # image 1 is within 0.2
    assert found.answered_top1_fraction == pytest.approx(2 / 3)  # images 0 and 2 of 0, 2 and 3
    assert found.log_loss == found.reference_log_loss


def test_probabilities_are_at_the_temperature_already() -> None:
    outputs = probabilities(MASTER, 2.0).astype(np.float32)
    found = sure_of(outputs, LABELS, kind="probabilities", fitted=FITTED)
    assert found.most_moved < 1e-6
    assert found.calibration_error == pytest.approx(found.reference_calibration_error)


def test_without_labels_nothing_is_made_up() -> None:
    found = sure_of(MASTER, None, fitted=UNFITTED)
    assert (found.temperature, found.threshold, found.answered_fraction) == (1.0, 0.0, 1.0)
    assert found.calibration_error is found.log_loss is found.answered_top1_fraction is None


def test_a_variant_that_decides_alike_and_is_not_as_sure_is_said_to() -> None:
    sharper = MASTER * 3
    held = compare(sharper, sharper, MASTER, labels=LABELS, class_names=("a", "b", "c"), rtol=1e-3, atol=1e-3)
    sure = sure_of(sharper, LABELS, fitted=UNFITTED)
    limit = dataclasses.replace(LIMITS["int8-static"], max_class_drop_points=None)
    (problem,) = out_of_limits(dataclasses.replace(held, certainty=sure), limit)
    assert problem.startswith("decides as the float32 master does, and is not as sure: its confidence moved by 0.1")
    assert (
        out_of_limits(dataclasses.replace(held, certainty=sure), dataclasses.replace(limit, max_confidence_moved=None))
        == ()
    )
