"""How far a classifier's probabilities may be believed: temperature, calibration error, and when not to answer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from udacisense.base.records import Confidence
from udacisense.errors import InputError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_BINS = 15  # as in Guo et al. 2017
_TURNED_AWAY_PERCENT = 5.0  # of the photos of known classes: "95 % true positives", as in Hendrycks & Gimpel 2017
_TEMPERATURES = (0.05, 20.0)


def probabilities(logits: NDArray[np.floating], temperature: float = 1.0) -> FloatArray:
    """Return softmax(logits / temperature): float64 (n, C) of (n, C)."""
    wide = logits.astype(np.float64) / temperature
    powers = np.exp(wide - wide.max(axis=1, keepdims=True))
    result: FloatArray = powers / powers.sum(axis=1, keepdims=True)
    return result


def margins(values: NDArray[np.floating]) -> FloatArray:
    """Return the largest minus the second largest value of each row: float64 (n,) of (n, C), C ≥ 2."""
    ordered = np.sort(values.astype(np.float64), axis=1)
    result: FloatArray = ordered[:, -1] - ordered[:, -2]
    return result


def not_logits(answers: NDArray[np.floating]) -> str | None:
    """Return what a model answers instead of logits, in a sentence; None: nothing shows that they are none.

    Args:
        answers: (n, C), to n images of all kinds.
    """
    wide, seen = answers.astype(np.float64), f"for each of {len(answers)} images"
    if wide.min() >= 0 and wide.max() <= 1:
        are_shares = np.allclose(wide.sum(axis=1), 1, atol=1e-3)
        sums = " and sum to one" if are_shares else ""
        return (
            f"The model answers no logits: its answers lie between 0 and 1{sums} {seen}, as behind a "
            f"{'softmax' if are_shares else 'sigmoid'}. Training, temperature, confidence and --softmax take them for "
            "logits and would be wrong; let forward return what comes before it."
        )
    if wide.max() <= 0 and np.allclose(np.exp(wide).sum(axis=1), 1, atol=1e-3):
        return (
            f"The model answers logarithms of probabilities, whose exponentials sum to one {seen}, as behind a "
            "log_softmax: confidence is that of its logits, and a file's answers are to be exponentiated, not fed to "
            "a second log_softmax."
        )
    return None


def negative_log_likelihood(found: FloatArray, labels: IntArray) -> float:
    """Return the mean of -log p(true class); a probability of 0 counts as the smallest float64 above it."""
    own = found[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(own, np.finfo(np.float64).tiny)).mean())


def expected_calibration_error(found: FloatArray, labels: IntArray) -> float:
    """Return how far confidence and accuracy are apart, 0..1: the mean over 15 bins of equal width, by their images.

    Naeini et al. 2015, with the bins of Guo et al. 2017.
    """
    sure, right = found.max(axis=1), found.argmax(axis=1) == labels
    bins = np.minimum((sure * _BINS).astype(np.intp), _BINS - 1)
    gap = np.bincount(bins, weights=right - sure, minlength=_BINS)
    return float(np.abs(gap).sum() / len(labels))


def fit_temperature(logits: NDArray[np.floating], labels: IntArray) -> float:
    """Return the temperature with the least negative log-likelihood (Guo et al. 2017), between 0.05 and 20.

    Args:
        logits: (n, C) of images that the model was not fitted on.
        labels: int64 (n,).
    """
    from scipy.optimize import minimize_scalar

    low, high = np.log(_TEMPERATURES)
    found = minimize_scalar(
        lambda log_t: negative_log_likelihood(probabilities(logits, float(np.exp(log_t))), labels),
        bounds=(float(low), float(high)),
        method="bounded",
    )
    return float(np.exp(found.x))


def fit_confidence(logits: NDArray[np.floating], labels: IntArray) -> Confidence:
    """Fit a temperature, and the margin that all but 5 % of the photos of known classes reach.

    Args:
        logits: float32 (n, C) of images that were held back from the training.
        labels: int64 (n,).

    Raises:
        InputError: there is no image.
    """
    if not len(labels):
        raise InputError("There are no images to fit a temperature on.")
    temperature = fit_temperature(logits, labels)
    reached = margins(probabilities(logits, temperature))
    return Confidence(
        temperature=temperature,
        rule="margin",
        unsure_below=float(np.percentile(reached, _TURNED_AWAY_PERCENT)),
        n_images=len(labels),
    )
