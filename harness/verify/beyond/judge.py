"""What a variant answers beyond the test images, held against the float32 master: other things, and shifted photos."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from harness.records import Comparison, Shifts, Unknown
from harness.verify.beyond.certainty import Believed
from harness.verify.beyond.inputs import Beyond
from harness.verify.compare import FloatArray, IntArray
from udacisense.measure.metrics import wilson_interval
from udacisense.measure.shifts import SEVERITIES, SHIFTS, by_shift


def judge_beyond(
    found: Comparison,
    beyond: Beyond,
    own: Believed,
    master: Believed,
    *,
    labels: IntArray | None,
    clean: tuple[FloatArray, FloatArray],
) -> Comparison:
    """Return a comparison with what was fed beside the test images.

    Args:
        found: on the test images.
        beyond: what was fed.
        own: the answers to it.
        master: the float32 master's.
        labels: int64 (n,) of the test images; None where they are not known.
        clean: the answers to those of them that were shifted, and the master's.
    """
    n = beyond.n_unknown
    if n:
        found = dataclasses.replace(found, unknown=judge_unknown(own.is_given[:n], master.is_given[:n]))
    if len(beyond.shifted) and labels is not None:
        shifted = own.probabilities[n:], master.probabilities[n:]
        found = dataclasses.replace(found, shifts=judge_shifts(*shifted, labels[beyond.shifted], clean=clean))
    return found


def judge_unknown(taken: NDArray[np.bool_], by_master: NDArray[np.bool_]) -> Unknown:
    """Return how often photos of other things are taken for a class: (n,) each, told by their margins."""
    low, high = wilson_interval(int(taken.sum()), len(taken))
    return Unknown(
        n_images=len(taken),
        taken_fraction=float(taken.mean()),
        taken_low=low,
        taken_high=high,
        reference_taken_fraction=float(by_master.mean()),
    )


def judge_shifts(
    outputs: NDArray[np.floating],
    master: NDArray[np.floating],
    labels: IntArray,
    *,
    clean: tuple[FloatArray, FloatArray],
) -> Shifts:
    """Return what a variant loses to the master under shift, and whether that is more than on clean images.

    Args:
        outputs: (7 · 5 · n, C), the variant's, in the order of :func:`udacisense.measure.shifts.all_shifts`.
        master: (7 · 5 · n, C), the float32 master's.
        labels: int64 (n,).
        clean: the variant's and the master's answers to the same n images, not shifted.

    Returns:
        The interval is Student's of the images' own differences: an image's 35 shifted copies are no 35 images.
    """
    from scipy import stats

    n = len(labels)

    def right(answers: NDArray[np.floating]) -> np.ndarray:
        chosen = answers.argmax(axis=1).reshape(len(SHIFTS), SEVERITIES, n)
        return np.asarray(chosen == labels)

    own, reference = right(outputs), right(master)
    lost = 100 * (reference.mean(axis=(0, 1)) - own.mean(axis=(0, 1)))
    own_clean, reference_clean = (100.0 * (answers.argmax(axis=1) == labels) for answers in clean)
    more = lost - (reference_clean - own_clean)
    half = float(stats.t.ppf(0.975, n - 1) * more.std(ddof=1) / np.sqrt(n)) if n > 1 else 100.0
    return Shifts(
        n_images=n,
        accuracy=by_shift(own),
        reference_accuracy=by_shift(reference),
        clean_lost_points=float((reference_clean - own_clean).mean()),
        lost_points=float(lost.mean()),
        more_points=float(more.mean()),
        more_low=float(more.mean()) - half,
        more_high=float(more.mean()) + half,
    )


def told_beyond(answered: FloatArray | str | None, shifts: Shifts | None) -> tuple[list[str], list[str]]:
    """Return what went wrong beyond the test images, and a loss under shift that clean images do not show.

    Args:
        answered: what a cell answered there, or why nothing; None where nothing was fed.
        shifts: of :func:`judge_shifts`.
    """
    what = "on other things and shifted photos"
    if isinstance(answered, str):
        return [f"{what}: {answered}"], []
    if answered is not None and not np.isfinite(answered).all():
        return [f"{what}: NaN or infinite answers"], []
    if shifts is None or shifts.more_low <= 0:
        return [], []
    return [], [
        f"loses more under shift than on clean photos: {shifts.more_points:.1f} points ({shifts.more_low:.1f} to "
        f"{shifts.more_high:.1f}) more"
    ]
