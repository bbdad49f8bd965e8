"""What the files of a cascade decide together, image by image, beside the cascade of the float32 masters."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from exporters.bundle.manifest import BundleMember, Variant
from harness.records import Asked, Comparison, Measurement
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
    try:
        parts = [_probabilities(*of_one) for of_one in zip(members, answers, jobs, strict=True)]
    except InferenceError as exc:
        return dataclasses.replace(made, reason=str(exc))
    comparison, told = _compare(members, answers[0], jobs[0], parts, limit)
    decisions = dataclasses.replace(limit, is_close=False, min_psnr_db=None, max_flip_margin=None)
    problems = "; ".join(out_of_limits(comparison, decisions))
    return dataclasses.replace(
        made,
        actual={"exit_code": 1} if problems else {},
        comparison=comparison,
        warnings=(told,),
        outcome=Outcome.FAILED if problems else Outcome.PASSED,
        reason=problems or None,
    )


def _probabilities(member: BundleMember, answers: Answers, job: CellJob) -> tuple[Probabilities, ...]:
    """Return the probabilities of a member's file, of its eager source and of its float32 master: (n, C) each.

    Raises:
        InferenceError: one of them did not answer.
    """
    outputs = None if job.job is None else answers.own(job).outputs
    shape = (len(answers.feed.rows[job.rows]), len(answers.labels))
    if outputs is None or outputs.shape != shape or not np.isfinite(outputs).all():
        raise InferenceError(f"{member.name} gave no answers that can be used, see its own row")
    rows, kind, temperature = answers.feed.judged(job.rows), job.variant.output_kind, member.confidence.temperature
    return (
        as_probabilities(outputs[: len(rows)], kind, temperature),
        as_probabilities(answers.source(job.variant)[rows], kind, temperature),
        as_probabilities(answers.master()[rows], "logits", temperature),
    )


def _compare(
    members: Sequence[BundleMember],
    first: Answers,
    job: CellJob,
    parts: Sequence[tuple[Probabilities, ...]],
    limit: Limit,
) -> tuple[Comparison, str]:
    """Hold the decisions against each other; also say them in words."""
    thresholds = [member.threshold for member in members if member.threshold is not None]
    (who, outputs), (_, source), (asked, master) = (_decided(of, thresholds) for of in zip(*parts, strict=True))
    labels = first.feed.labels_of(job.rows)
    found = compare(outputs, source, master, labels=labels, class_names=first.labels, rtol=limit.rtol, atol=limit.atol)
    logits = np.log(np.maximum(master, np.finfo(np.float32).tiny))
    reached, wanted = (tuple(float((w >= n).mean()) for n in range(len(members))) for w in (who, asked))
    n_otherwise = int((who != asked).sum())
    told = (
        f"another member answers {n_otherwise} of {len(who)} images, and {len(found.flips)} get another answer, than "
        f"of the float32 models; past the first member go {100 * reached[1]:.1f} % ({100 * wanted[1]:.1f} %)"
    )
    found = dataclasses.replace(
        found,
        certainty=certainty(outputs, logits, labels, output_kind="probabilities", fitted=None),
        asked=Asked(n_otherwise=n_otherwise, reached_fractions=reached, reference_reached_fractions=wanted),
    )
    return found, told


def _decided(found: Sequence[Probabilities], thresholds: Sequence[float]) -> tuple[NDArray[np.intp], FloatArray]:
    who, _ = decide(found, thresholds)
    return who, np.stack(found)[who, np.arange(len(who))].astype(np.float32)
