"""Temperature, calibration error and thresholds, against values computed by hand and against draws that are known."""

from __future__ import annotations

import numpy as np
import pytest

from udacisense.errors import InputError
from udacisense.measure.confidence import (
    expected_calibration_error,
    fit_confidence,
    fit_temperature,
    margins,
    negative_log_likelihood,
    probabilities,
)


def drawn(n: int, *, sharpened: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose labels were drawn from their own probabilities, then made ``sharpened`` times as sure."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 1.5, (n, 5))
    chosen = probabilities(logits).cumsum(axis=1)
    labels = (random.random((n, 1)) > chosen).sum(axis=1)
    return (logits * sharpened).astype(np.float32), labels


def test_probabilities_do_not_overflow_and_the_temperature_softens() -> None:
    huge = np.asarray([[1000, 1000, 0]], dtype=np.float32)
    assert probabilities(huge)[0] == pytest.approx([0.5, 0.5, 0])
    two = np.asarray([[2.0, 0.0]], dtype=np.float32)
    assert probabilities(two, 2.0)[0, 0] == pytest.approx(1 / (1 + np.exp(-1)))
    assert margins(np.asarray([[3, 1, 0], [0, 2, 1.5]])) == pytest.approx([2, 0.5])


@pytest.mark.parametrize("sharpened", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_what_made_the_model_too_sure(sharpened: float) -> None:
    logits, labels = drawn(4000, sharpened=sharpened)
    assert fit_temperature(logits, labels) == pytest.approx(sharpened, rel=0.1)
    found = probabilities(logits, fit_temperature(logits, labels))
    assert expected_calibration_error(found, labels) < 0.03
    if sharpened == 3.0:
        assert expected_calibration_error(probabilities(logits), labels) > 0.1


def test_errors_and_losses_are_those_computed_by_hand() -> None:
    found = np.asarray([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.0, 1.0]])
    labels = np.asarray([0, 1, 1, 1])
    # Bins: {0.9, 0.9} right once, {0.6} right, {1.0} right.
    assert expected_calibration_error(found, labels) == pytest.approx((2 * 0.4 + 0.4 + 0.0) / 4)
    assert negative_log_likelihood(found, labels) == pytest.approx(-np.log([0.9, 0.1, 0.6, 1.0]).mean())
    assert np.isfinite(negative_log_likelihood(found, np.asarray([0, 1, 1, 0])))


def test_one_photo_in_twenty_is_turned_away() -> None:
    logits, labels = drawn(2000, sharpened=1.0)
    fitted = fit_confidence(logits, labels)
    reached = margins(probabilities(logits, fitted.temperature))
    assert (reached < fitted.unsure_below).mean() == pytest.approx(0.05, abs=0.002)
    assert (fitted.rule, fitted.n_images) == ("margin", 2000)


def test_nothing_to_fit_on_is_refused() -> None:
    with pytest.raises(InputError, match="no images to fit a temperature"):
        fit_confidence(np.zeros((0, 3), dtype=np.float32), np.zeros(0, dtype=np.int64))
