"""What the processes of a verification answered, and whether a reference can be held against anything.

A reference must answer, finitely, by the image alone, and each time alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exporters.bundle.manifest import Manifest, Variant
from exporters.bundle.open import Bundle
from harness.cell.run import Cell
from harness.runners.table import RUNNERS
from harness.verify.beyond.inputs import BEYOND
from harness.verify.compare import FloatArray, difference, is_close
from harness.verify.inside.job import Inside
from harness.verify.plan import ALONE, CellJob, CellKey, Feed, ReferenceJob, master_of, source_of
from udacisense.errors import InferenceError
from udacisense.measure.metrics import scale_of


@dataclass(frozen=True)
class Answers:
    """Everything that the processes of a verification answered."""

    bundle: Bundle
    feed: Feed
    jobs: Sequence[CellJob]  # what is judged; references are not
    references: Mapping[str, FloatArray | str]  # by id of the eager source: rows as in the feed's "all", or why none
    cells: Mapping[CellKey, Cell]
    allow_factory: str | None
    inside: Mapping[str, Inside]

    @property
    def manifest(self) -> Manifest:
        """Return what the bundle says of itself."""
        return self.bundle.manifest

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the classes, in output order."""
        return self.bundle.manifest.signature.labels

    def master(self) -> FloatArray:
        """Return the float32 master's logits.

        Raises:
            InferenceError: it did not answer.
        """
        found = self.references[master_of(self.allow_factory).id]
        if isinstance(found, str):
            raise InferenceError(f"The float32 master did not answer: {found}.")
        return found

    def beyond(self) -> FloatArray:
        """Return the float32 master's logits of what was fed beside the test images.

        Raises:
            InferenceError: it did not answer.
        """
        found = self.cells["reference", master_of(self.allow_factory).id, "eager", None].others[BEYOND]
        if isinstance(found, str):
            raise InferenceError(f"The float32 master did not answer other things and shifted photos: {found}.")
        return found

    def source(self, variant: Variant) -> FloatArray:
        """Return what the variant's eager source answers.

        Raises:
            InferenceError: it did not answer.
        """
        sister = self.sister(variant)
        if sister is not None:
            return sister
        found = self.references[source_of(variant, self.allow_factory).id]
        if isinstance(found, str):
            raise InferenceError(f"its eager source did not answer: {found}")
        return found

    def sister(self, variant: Variant) -> FloatArray | None:
        """Return what the ``.onnx`` of an ``.ort`` file's precision answers: the graph that it was optimised from.

        None for all others, and where that file did not answer: its own cell then says so.
        """
        if variant.format != "ort" or variant.precision == "fp32":
            return None
        same = [v.id for v in self.manifest.variants if v.format == "onnx" and v.precision == variant.precision]
        return next((found for name in same if (found := self.of_file(name)) is not None), None)

    def of_file(self, variant_id: str) -> FloatArray | None:
        """Return what a file answered in the first runner that was fed everything; None where none answered."""
        wanted = (len(self.feed.rows["all"]), len(self.labels))
        own = [c.outputs for (role, name, _, _), c in self.cells.items() if (role, name) == ("own", variant_id)]
        return next((found for found in own if found is not None and found.shape == wanted), None)

    def own(self, job: CellJob) -> Cell:
        """Return the cell of the same variant and runner as it ships."""
        engine = job.variant.engine if RUNNERS[job.spec.runner].quantized_engines else None
        return self.cells["own", job.variant.id, job.spec.runner, engine]


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
    if _is_rounding(beside, first):
        return
    told = f"alone and in batches of {batch_size}, {difference(beside, first)}"
    if _is_enlarged_rounding(beside, first):
        raise InferenceError(
            f"The model answers an image otherwise beside others, by at most 1 % of the range of its answers: {told}. "
            "A network that enlarges float32's own rounding does so, as untrained ones may, and one that depends a "
            "little on its batch. No file can be held against it; train the model, or change it."
        )
    raise InferenceError(
        f"The model's answer to an image depends on the other images of its batch: {told}. BatchNorm without running "
        "statistics does so, and a decision on the whole batch. A phone asks image by image: change the model."
    )


def _is_rounding(got: FloatArray, wanted: FloatArray) -> bool:
    """Tell whether float32 answers are the same but for the order of their sums."""
    scale = max(scale_of(wanted), float(np.ptp(wanted)) / 10)
    return got.shape == wanted.shape and is_close(got, wanted, rtol=1e-3, atol=1e-3, scale=scale)


def _is_enlarged_rounding(got: FloatArray, wanted: FloatArray) -> bool:
    """Tell whether each image's answers (n, C) differ by at most 1 % of their range, and decide the same."""
    within = np.abs(got - wanted).max(axis=1) <= 0.01 * np.ptp(wanted, axis=1)
    return bool((within & (got.argmax(axis=1) == wanted.argmax(axis=1))).all())
