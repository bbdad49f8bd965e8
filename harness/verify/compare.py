"""Two sets of answers held against each other: numbers against the eager source, decisions against the master."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.records import Comparison, Flip
from udacisense.errors import InputError
from udacisense.measure.confidence import margins
from udacisense.measure.metrics import mcnemar_p, scale_of, wilson_interval

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


def compare(
    outputs: FloatArray,
    source: FloatArray,
    master: FloatArray,
    *,
    labels: IntArray | None,
    class_names: Sequence[str],
    rtol: float,
    atol: float,
) -> Comparison:
    """Compare a variant's answers with what it should answer.

    Args:
        outputs: float32 (n, C), logits or probabilities.
        source: float32 (n, C), the same of the eager source of the variant's precision: the numbers to meet.
        master: float32 (n, C), logits of the float32 master: the decisions to meet.
        labels: int64 (n,), true classes; None where they are not known.
        class_names: the C labels, in output order.
        rtol: relative tolerance, of |source|.
        atol: absolute tolerance, times :func:`scale_of` of ``source``. An element is close where
            |Δ| ≤ atol · scale + rtol · |source|.

    Returns:
        PSNR is 20 · log10(range of ``source`` / RMSE). An image whose outputs are not all finite counts as a flip
        and as wrongly classified.

    Raises:
        InputError: nothing is compared (n = 0), or the shapes differ.
    """
    _check_shapes(outputs, source, master, class_names)
    finite = np.asarray(np.isfinite(outputs).all(axis=1), dtype=np.bool_)
    predicted, expected = _top1(outputs), master.argmax(axis=1)
    agrees = finite & (predicted == expected)
    low, high = wilson_interval(int(agrees.sum()), len(outputs))
    numbers = _numbers(outputs, source) if finite.all() else dict.fromkeys(_NUMBERS)
    return Comparison(
        n_inputs=len(outputs),
        rtol=rtol,
        atol=atol * scale_of(source),
        allclose=is_close(outputs, source, rtol=rtol, atol=atol),
        nonfinite=int(outputs.size - np.isfinite(outputs).sum()),
        **numbers,
        top1_agreement_fraction=float(agrees.mean()),
        top1_agreement_low=low,
        top1_agreement_high=high,
        flips=_flips(np.flatnonzero(~agrees), predicted, master),
        scale=scale_of(master),
        **_accuracy(finite, predicted, expected, labels, class_names),
    )


def is_close(got: FloatArray, wanted: FloatArray, *, rtol: float, atol: float, scale: float | None = None) -> bool:
    """Tell whether |Δ| ≤ atol · scale + rtol · |wanted| everywhere; ``scale``: that of ``wanted`` if not given."""
    absolute = atol * (scale_of(wanted) if scale is None else scale)
    return bool(np.allclose(got, wanted, rtol=rtol, atol=absolute))


def difference(outputs: FloatArray, other: FloatArray) -> str:
    """Say how far two sets of answers (n, C) are apart."""
    if np.array_equal(outputs, other):
        return "the same answers bit by bit"
    decisions = int((outputs.argmax(axis=1) != other.argmax(axis=1)).sum())
    return f"max |Δ| {np.abs(outputs - other).max():.3g}, {decisions} of {len(outputs)} decisions differ"


_NUMBERS = ("max_abs", "mean_abs", "rmse", "min_cosine", "psnr_db")


def _numbers(outputs: FloatArray, source: FloatArray) -> dict[str, float | None]:
    got, wanted = outputs.astype(np.float64), source.astype(np.float64)
    difference = np.abs(got - wanted)
    rmse = float(np.sqrt(np.square(difference).mean()))
    span = float(wanted.max() - wanted.min())
    return {
        "max_abs": float(difference.max()),
        "mean_abs": float(difference.mean()),
        "rmse": rmse,
        "min_cosine": float(_cosines(got, wanted).min()),
        "psnr_db": 20 * float(np.log10(span / rmse)) if rmse > 0 and span > 0 else None,
    }


def _cosines(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the cosine of each pair of rows; two zero rows point the same way, a zero and a non-zero row do not."""
    lengths = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    product = lengths[0] * lengths[1]
    both_zero = (lengths[0] == 0) & (lengths[1] == 0)
    cosine = np.divide((a * b).sum(axis=1), product, out=np.zeros_like(product), where=product > 0)
    result: NDArray[np.float64] = np.where(both_zero, 1.0, np.clip(cosine, -1.0, 1.0))
    return result


def _top1(outputs: FloatArray) -> NDArray[np.intp]:
    result: NDArray[np.intp] = np.where(np.isnan(outputs), -np.inf, outputs).argmax(axis=1)
    return result


def _flips(indices: NDArray[np.intp], predicted: NDArray[np.intp], master: FloatArray) -> tuple[Flip, ...]:
    gaps = margins(master)
    return tuple(
        Flip(
            index=int(i),
            reference_label=int(master[i].argmax()),
            label=int(predicted[i]),
            reference_margin=float(gaps[i]),
        )
        for i in indices
    )


def _accuracy(
    finite: NDArray[np.bool_],
    predicted: NDArray[np.intp],
    expected: NDArray[np.intp],
    labels: IntArray | None,
    class_names: Sequence[str],
) -> dict[str, Any]:
    keys = ("top1_fraction", "reference_top1_fraction", "per_class", "reference_per_class", "mcnemar_p")
    if labels is None:
        return dict.fromkeys(keys)
    right, reference_right = finite & (predicted == labels), expected == labels
    return {
        "top1_fraction": float(right.mean()),
        "reference_top1_fraction": float(reference_right.mean()),
        "per_class": _per_class(right, labels, class_names),
        "reference_per_class": _per_class(reference_right, labels, class_names),
        "mcnemar_p": mcnemar_p(right, reference_right),
    }


def _per_class(right: NDArray[np.bool_], labels: IntArray, class_names: Sequence[str]) -> dict[str, float]:
    return {name: float(right[labels == i].mean()) for i, name in enumerate(class_names) if (labels == i).any()}


def _check_shapes(outputs: FloatArray, source: FloatArray, master: FloatArray, class_names: Sequence[str]) -> None:
    if len(outputs) == 0:
        raise InputError("Nothing was compared: there are no inputs.")
    wanted = (len(outputs), len(class_names))
    for name, array in (("the variant", outputs), ("its eager source", source), ("the float32 master", master)):
        if array.shape != wanted:
            raise InputError(f"The answers of {name} have the shape {array.shape}; {wanted} is expected.")
