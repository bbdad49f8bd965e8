"""Whether a reference can be held against anything: it answers, finitely, by the image alone, and each time alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from harness.cell.run import Cell
from harness.verify.compare import FloatArray, difference
from harness.verify.plan import ALONE, Feed, ReferenceJob
from udacisense.errors import InferenceError


def reference_outputs(job: ReferenceJob, cell: Cell, feed: Feed) -> FloatArray | str:
    """Return a reference's answers, or why it gave none.

    Raises:
        InferenceError: they are not finite, differ from call to call, or depend on the other images of a batch:
            nothing can be held against them.
    """
    if cell.outputs is None:
        return str(cell.result.reason).rstrip(".")
    if not np.isfinite(cell.outputs).all():
        raise InferenceError(f"The reference ({job.source.id}) answers NaN or infinite values; train the model again.")
    alone = cell.others.get(ALONE)
    if isinstance(alone, str):
        raise InferenceError(f"The model does not answer an image alone, as a phone asks: {alone.rstrip('.')}.")
    if alone is not None:
        _check_alone(cell.outputs, alone, feed.rows["alone"], job.job.spec.batch_size)
    return cell.outputs


def _check_alone(outputs: FloatArray, alone: FloatArray, rows: NDArray[np.intp], batch_size: int) -> None:
    """Refuse a model whose answer to an image depends on more than the image.

    Args:
        outputs: of every row, in batches.
        alone: of ``rows``, image by image; the second half of them is the first half again.
        rows: of ``outputs``.
        batch_size: of ``outputs``.
    """
    first, again = np.split(alone, 2)
    if not _is_rounding(again, first):
        raise InferenceError(
            f"The model's answers differ from call to call ({difference(again, first)}): a dropout that is always "
            "on, random numbers, or a state that changes. Nothing can be held against them; change the model."
        )
    beside = outputs[rows[: len(first)]]
    if not _is_rounding(beside, first):
        raise InferenceError(
            "The model's answer to an image depends on the other images of its batch: alone and in batches of "
            f"{batch_size}, {difference(beside, first)}. BatchNorm without running statistics does so, and a "
            "decision on the whole batch. A phone asks image by image: change the model."
        )


def _is_rounding(got: FloatArray, wanted: FloatArray) -> bool:
    """Tell whether float32 answers are the same but for the order of their sums."""
    atol = max(1e-3, 1e-4 * float(np.ptp(wanted)))
    return got.shape == wanted.shape and bool(np.allclose(got, wanted, rtol=1e-3, atol=atol))
