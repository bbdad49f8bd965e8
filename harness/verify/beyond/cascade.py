"""What the files of a cascade decide together, image by image, beside the cascade of the float32 masters."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from exporters.bundle.manifest import BundleMember, Variant
from harness.records import Asked, Comparison, Measurement
from harness.verify.answers import Answers
from harness.verify.beyond.certainty import Believed, believe, certainty
from harness.verify.beyond.inputs import BEYOND
from harness.verify.beyond.judge import judge_beyond, told_beyond
from harness.verify.compare import FloatArray, compare
from harness.verify.limits import Limit, out_of_limits
from harness.verify.plan import CellJob
from udacisense.base.records import Outcome
from udacisense.errors import InferenceError
from udacisense.measure.cascade import decide


def judge_way(
    members: Sequence[BundleMember],
    answers: Sequence[Answers],
    way: Variant,
    limit: Limit,
    *,
    judged: Sequence[Measurement],
) -> Iterator[Measurement]:
    """Yield what became of one way to run a cascade, by each runner that was to open the files of all its members.

    Args:
        members: in the order of asking.
        answers: of each member, to the same images.
        way: of :meth:`exporters.bundle.manifest.Manifest.ways`.
        limit: that its decisions are held to; its numbers are its members'.
        judged: what became of the members' files. Where this host cannot show whether one is right, it cannot show it
            of the way either.
    """
    jobs = [{j.spec.runner: j for j in one.jobs if j.role == "own" and j.variant.id == way.id} for one in answers]
    for runner in jobs[0]:
        if not all(runner in found for found in jobs):
            continue
        made = _judge(members, answers, [found[runner] for found in jobs], limit)
        own = {(member.variants[way.id], runner, made.spec.engine) for member in members}
        of_files = [m for m in judged if (m.spec.variant_id, m.spec.runner, m.spec.engine) in own]
        unknown = next((m for m in of_files if m.outcome is Outcome.SKIPPED), None)
        if unknown is not None and made.outcome is Outcome.FAILED:
            reason = f"{unknown.spec.variant_id}: {unknown.reason}"
            made = dataclasses.replace(made, outcome=Outcome.SKIPPED, reason=reason, actual={})
        yield made


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
        parts = [_believed(*of_one) for of_one in zip(members, answers, jobs, strict=True)]
    except InferenceError as exc:
        return dataclasses.replace(made, reason=str(exc))
    comparison, told = _compare(members, answers, jobs, parts, limit)
    decisions = dataclasses.replace(limit, is_close=False, min_psnr_db=None, max_flip_margin=None)
    problems = "; ".join(out_of_limits(comparison, decisions))
    return dataclasses.replace(
        made,
        actual={"exit_code": 1} if problems else {},
        comparison=comparison,
        warnings=(told, *told_beyond(None, comparison.shifts)[1]),
        outcome=Outcome.FAILED if problems else Outcome.PASSED,
        reason=problems or None,
    )


def _believed(member: BundleMember, answers: Answers, job: CellJob) -> tuple[Believed, ...]:
    """Return what a member's file answers, its eager source and its float32 master: (n, C) each.

    Raises:
        InferenceError: one of them did not answer.
    """
    outputs = None if job.job is None else answers.own(job).outputs
    shape = (len(answers.feed.rows[job.rows]), len(answers.labels))
    if outputs is None or outputs.shape != shape or not np.isfinite(outputs).all():
        raise InferenceError(f"{member.name} gave no answers that can be used, see its own row")
    rows, kind, fitted = answers.feed.judged(job.rows), job.variant.output_kind, member.confidence
    return (
        believe(outputs[: len(rows)], kind, fitted),
        believe(answers.source(job.variant)[rows], kind, fitted),
        believe(answers.master()[rows], "logits", fitted),
    )


def _compare(
    members: Sequence[BundleMember],
    answers: Sequence[Answers],
    jobs: Sequence[CellJob],
    parts: Sequence[tuple[Believed, ...]],
    limit: Limit,
) -> tuple[Comparison, str]:
    """Hold the decisions against each other; also say them in words."""
    (who, own), (_, source), (asked, master) = (_decided(members, of) for of in zip(*parts, strict=True))
    labels = answers[0].feed.labels_of(jobs[0].rows)
    numbers = [one.probabilities.astype(np.float32) for one in (own, source, master)]
    found = compare(*numbers, labels=labels, class_names=answers[0].labels, rtol=limit.rtol, atol=limit.atol)
    reached, wanted = (tuple(float((w >= n).mean()) for n in range(len(members))) for w in (who, asked))
    n_otherwise = int((who != asked).sum())
    told = (
        f"another member answers {n_otherwise} of {len(who)} images, and {len(found.flips)} get another answer, than "
        f"of the float32 models; past the first member go {100 * reached[1]:.1f} % ({100 * wanted[1]:.1f} %)"
    )
    found = dataclasses.replace(
        found,
        certainty=certainty(own, master, labels, fitted=None),
        asked=Asked(n_otherwise=n_otherwise, reached_fractions=reached, reference_reached_fractions=wanted),
    )
    return _with_beyond(members, answers, jobs, found, clean=(numbers[0], numbers[2])), told


def _with_beyond(
    members: Sequence[BundleMember],
    answers: Sequence[Answers],
    jobs: Sequence[CellJob],
    found: Comparison,
    *,
    clean: tuple[FloatArray, FloatArray],
) -> Comparison:
    """Add what the members decide of other things and of shifted photos, where each of them answered finitely."""
    feed = answers[0].feed
    given = [one.own(job).others.get(BEYOND) for one, job in zip(answers, jobs, strict=True)]
    outputs = [one for one in given if isinstance(one, np.ndarray) and np.isfinite(one).all()]
    if feed.beyond is None or len(outputs) < len(members):
        return found
    kinds, fits = [job.variant.output_kind for job in jobs], [member.confidence for member in members]
    _, own = _decided(members, [believe(*of) for of in zip(outputs, kinds, fits, strict=True)])
    _, master = _decided(members, [believe(a.beyond(), "logits", fit) for a, fit in zip(answers, fits, strict=True)])
    rows = feed.beyond.shifted
    clean = clean[0][rows], clean[1][rows]
    return judge_beyond(found, feed.beyond, own, master, labels=feed.labels, clean=clean)


def _decided(members: Sequence[BundleMember], found: Sequence[Believed]) -> tuple[NDArray[np.intp], Believed]:
    """Return who answers each image, and what is believed of that answer."""
    thresholds = [member.threshold for member in members if member.threshold is not None]
    who, _ = decide([one.probabilities for one in found], thresholds)
    rows = np.arange(len(who))
    return who, Believed(
        np.stack([one.probabilities for one in found])[who, rows], np.stack([one.is_given for one in found])[who, rows]
    )
