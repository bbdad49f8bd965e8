"""What the files of a cascade decide together, image by image, beside the cascade of the float32 masters."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from exporters.bundle.manifest import BundleMember, Variant
from harness.records import Asked, Measurement
from harness.verify.beyond.certainty import Probabilities, as_probabilities, certainty
from harness.verify.compare import FloatArray, compare
from harness.verify.judge import Answers
from harness.verify.limits import Limit, out_of_limits
from harness.verify.plan import CellJob
from udacisense.base.records import Outcome
from udacisense.errors import InferenceError
from udacisense.measure.cascade import decide


def judge_way(
    members: Sequence[BundleMember], answers: Sequence[Answers], way: Variant, limit: Limit
) -> Iterator[Measurement]:
    """Yield what became of one way to run a cascade, by each runner that was to open the files of all its members.

    Args:
        members: in the order of asking.
        answers: of each member, to the same images.
        way: of :meth:`exporters.bundle.manifest.Manifest.ways`.
        limit: that its decisions are held to; its numbers are its members'.
    """
    jobs = [{j.spec.runner: j for j in one.jobs if j.role == "own" and j.variant.id == way.id} for one in answers]
    for runner in jobs[0]:
        if all(runner in found for found in jobs):
            yield _judge(members, answers, [found[runner] for found in jobs], limit)


def _judge(
    members: Sequence[BundleMember], answers: Sequence[Answers], jobs: Sequence[CellJob], limit: Limit
) -> Measurement:
    made = Measurement(
        spec=jobs[-1].spec,
        actual={},
        comparison=None,
        timing=None,
        warnings=(),
        outcome=Outcome.SKIPPED,
        reason=None,
    )
    first, rows = answers[0], answers[0].feed.judged(jobs[0].rows)
    own, sources, masters = [], [], []
    for member, one, job in zip(members, answers, jobs, strict=True):
        outputs = None if job.job is None else one.own(job).outputs
        if outputs is None or outputs.shape[1:] != (len(one.labels),) or not np.isfinite(outputs).all():
            return dataclasses.replace(made, reason=f"{member.name} gave no answers that can be used, see its own row")
        try:
            source = one.source(job.variant)
        except InferenceError as exc:
            return dataclasses.replace(made, reason=f"{member.name}: {exc}")
        kind, temperature = job.variant.output_kind, member.confidence.temperature
        own.append(as_probabilities(outputs[: len(rows)], kind, temperature))
        sources.append(as_probabilities(source[rows], kind, temperature))
        masters.append(as_probabilities(one.master()[rows], "logits", temperature))
    limits = [member.threshold for member in members[:-1] if member.threshold is not None]
    (who, outputs), (_, source), (asked, master) = (_decided(found, limits) for found in (own, sources, masters))
    labels = first.feed.labels_of(jobs[0].rows)
    comparison = compare(
        outputs, source, master, labels=labels, class_names=first.labels, rtol=limit.rtol, atol=limit.atol
    )
    logits = np.log(np.maximum(master, np.finfo(np.float32).tiny)).astype(np.float32)
    comparison = dataclasses.replace(
        comparison,
        certainty=certainty(outputs, logits, labels, output_kind="probabilities", fitted=None),
        asked=Asked(
            n_otherwise=int((who != asked).sum()),
            reached_fractions=_reached(who, len(members)),
            reference_reached_fractions=_reached(asked, len(members)),
        ),
    )
    decisions = dataclasses.replace(limit, is_close=False, min_psnr_db=None, max_flip_margin=None)
    problems = "; ".join(out_of_limits(comparison, decisions))
    return dataclasses.replace(
        made,
        actual={"exit_code": 1} if problems else {},
        comparison=comparison,
        warnings=(_told(comparison.asked, len(comparison.flips), len(rows)),),
        outcome=Outcome.FAILED if problems else Outcome.PASSED,
        reason=problems or None,
    )


def _decided(found: Sequence[Probabilities], thresholds: Sequence[float]) -> tuple[NDArray[np.intp], FloatArray]:
    who, _ = decide(found, thresholds)
    return who, np.stack(found)[who, np.arange(len(who))].astype(np.float32)


def _reached(who: NDArray[np.intp], members: int) -> tuple[float, ...]:
    return tuple(float((who >= number).mean()) for number in range(members))


def _told(asked: Asked | None, flips: int, images: int) -> str:
    assert asked is not None
    return (
        f"another member answers {asked.n_otherwise} of {images} images, and {flips} get another answer, than of the "
        f"float32 models; past the first member go {100 * asked.reached_fractions[1]:.1f} % "
        f"({100 * asked.reference_reached_fractions[1]:.1f} %)"
    )
