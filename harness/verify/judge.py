"""From answers to outcomes: what each cell of a verification shows."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

from exporters.bundle.manifest import Variant
from exporters.bundle.reference import has_own_source
from exporters.formats.contract import PHONE_ENGINE
from exporters.formats.pointwise import NEVER_ON_X86, is_plain_ptl
from harness.cell.identity import differences
from harness.cell.run import Cell
from harness.records import Comparison, Measurement
from harness.runners.onnxruntime import SATURATED
from harness.runners.table import RUNNERS
from harness.verify.answers import Answers
from harness.verify.beyond.certainty import believe, certainty
from harness.verify.beyond.inputs import BEYOND
from harness.verify.beyond.judge import judge_beyond, told_beyond
from harness.verify.compare import FloatArray, compare, difference, is_close
from harness.verify.inside.job import Inside
from harness.verify.limits import Limit, limit_for, out_of_limits
from harness.verify.plan import (
    SETTINGS,
    X86_ANDROID,
    CellJob,
    engine_setting,
)
from udacisense.base.records import UNFITTED, Outcome, Scalar
from udacisense.errors import InferenceError, LoadError
from udacisense.measure.confidence import margins
from udacisense.measure.metrics import scale_of

_GOLDEN_PSNR_DB = 40.0


def check_golden(answers: Answers, logits: FloatArray) -> None:
    """Hold the golden pack's logits against the float32 master of today.

    Raises:
        LoadError: they are not its answers.
    """
    master = answers.master()[answers.feed.golden]
    if not is_close(logits, master, rtol=1e-3, atol=1e-3):
        raise LoadError(
            f"The golden pack's logits are not the float32 master's (max |Δ| {np.abs(master - logits).max():.3g}): "
            "the weights or the pack were changed. Export the bundle again."
        )


def judge_cell(answers: Answers, job: CellJob, limit: Limit) -> Measurement:
    """Return what became of one cell of the roles own and engine."""
    if job.outcome is not None:
        return _measurement(job, job.outcome, job.reason, actual={})
    answered = _answered(answers, job)
    if isinstance(answered, Measurement):
        return answered
    outputs, actual = answered
    try:
        answers.source(job.variant)
    except InferenceError as exc:
        actual["exit_code"] = exc.exit_code
        return _measurement(job, Outcome.FAILED, str(exc), actual=actual)
    if has_own_source(job.variant) and not RUNNERS[job.spec.runner].quantized_engines:
        # Another build of the library has kernels that round in their own places: decisions count.
        limit = dataclasses.replace(limit, min_psnr_db=None)
    if job.variant.format == "ort" and answers.sister(job.variant) is None:
        # Its .onnx was not verified beside it: the float32 model stands in, as it does for that file.
        as_onnx = limit_for({}, dataclasses.replace(job.variant, format="onnx"))
        limit = dataclasses.replace(limit, min_psnr_db=as_onnx.min_psnr_db)
    comparison = _compare(answers, job, outputs, limit)
    decide = _judge_engine if job.role == "engine" else _judge_own
    verdict = decide(answers, job, outputs, comparison, limit)
    if verdict.outcome is Outcome.FAILED:
        actual["exit_code"] = 1
    return _measurement(
        job, verdict.outcome, verdict.reason, actual=actual, comparison=comparison, warnings=verdict.notes
    )


@dataclass(frozen=True)
class Verdict:
    """What a cell shows, and what else is worth telling."""

    outcome: Outcome
    reason: str | None
    notes: Sequence[str]


def _measurement(
    job: CellJob,
    outcome: Outcome,
    reason: str | None,
    *,
    actual: dict[str, Scalar],
    comparison: Comparison | None = None,
    warnings: Sequence[str] = (),
) -> Measurement:
    return Measurement(
        spec=job.spec,
        actual=actual,
        comparison=comparison,
        timing=None,
        warnings=tuple(warnings),
        outcome=outcome,
        reason=reason,
    )


def _answered(answers: Answers, job: CellJob) -> tuple[FloatArray, dict[str, Scalar]] | Measurement:
    """Return a cell's answers and what its runtime really got; or what became of a cell without any."""
    own = answers.own(job)
    actual = dict(own.result.actual)
    if job.role == "engine":
        actual["engine"] = job.spec.engine
        if own.result.outcome is not Outcome.PASSED:
            reason = f"under {job.variant.engine}, which it was packed for, it did not answer"
            return _measurement(job, Outcome.SKIPPED, reason, actual=actual)
        outputs = own.others[engine_setting(str(job.spec.engine))]
        if isinstance(outputs, str):
            reason = f"packed for {job.variant.engine}, it does not run under {job.spec.engine}: {outputs}"
            is_phone = job.spec.engine == PHONE_ENGINE
            return _measurement(job, Outcome.FAILED if is_phone else Outcome.SKIPPED, reason, actual=actual)
    elif own.result.outcome is Outcome.PASSED and own.outputs is not None:
        outputs = own.outputs
    else:
        if own.result.outcome is Outcome.FAILED:
            actual["exit_code"] = own.result.exit_code
        return _measurement(job, own.result.outcome, own.result.reason or "no answer was left", actual=actual)
    problem = _foreign(answers, job, own, outputs)
    if problem is None:
        return outputs, actual
    return _measurement(job, Outcome.FAILED, problem, actual={**actual, "exit_code": 1})


def _foreign(answers: Answers, job: CellJob, own: Cell, outputs: FloatArray) -> str | None:
    """Say what shows that the file is not the one that the manifest speaks of."""
    wanted = (len(answers.feed.rows[job.rows]), len(answers.labels))
    if outputs.shape != wanted:
        return f"the answers have the shape {outputs.shape}; {wanted} is expected"
    labels = own.result.actual.get("labels")
    if isinstance(labels, str) and tuple(json.loads(labels)) != answers.labels:
        return f"the file's own labels ({', '.join(json.loads(labels))}) are not the bundle's, in order"
    text = own.result.values.get("metadata")
    manifest = answers.manifest
    if text is None:
        return None
    other = differences(text, job.variant, artifact_sha256=manifest.artifact_sha256, signature=manifest.signature)
    return f"the file says of itself another {', '.join(other)} than the manifest says of it" if other else None


def _compare(answers: Answers, job: CellJob, outputs: FloatArray, limit: Limit) -> Comparison:
    feed = answers.feed
    rows = feed.judged(job.rows)
    own, master, labels = outputs[: len(rows)], answers.master()[rows], feed.labels_of(job.rows)
    found = compare(
        own,
        answers.source(job.variant)[rows],
        master,
        labels=labels,
        class_names=answers.labels,
        rtol=limit.rtol,
        atol=limit.atol,
    )
    if not found.nonfinite:
        fitted = answers.manifest.confidence or UNFITTED
        by = believe(own, job.variant.output_kind, fitted), believe(master, "logits", fitted)
        found = dataclasses.replace(found, certainty=certainty(*by, labels, fitted=fitted))
    return _with_beyond(answers, job, found, outputs)


def _with_beyond(answers: Answers, job: CellJob, found: Comparison, outputs: FloatArray) -> Comparison:
    """Add what the variant answers to other things and to shifted photos, where it was asked and answered finitely."""
    beyond, own = answers.feed.beyond, answers.own(job).others.get(BEYOND)
    if beyond is None or job.role != "own" or own is None or isinstance(own, str) or not np.isfinite(own).all():
        return found
    fitted, rows = answers.manifest.confidence or UNFITTED, beyond.shifted
    by = believe(own, job.variant.output_kind, fitted), believe(answers.beyond(), "logits", fitted)
    clean = outputs[rows], answers.master()[rows]
    return judge_beyond(found, beyond, *by, labels=answers.feed.labels, clean=clean)


def _judge_engine(answers: Answers, job: CellJob, outputs: FloatArray, comparison: Comparison, limit: Limit) -> Verdict:
    """Judge a file under an engine that it was not packed for: only the phone's can fail it."""
    own = answers.own(job).outputs
    assert own is not None
    apart = difference(outputs, own[answers.feed.rows[job.rows]])
    notes = [f"against the same file under {job.variant.engine}: {apart}"]
    # Each engine rounds in its own places: across engines, decisions count.
    text = "; ".join(out_of_limits(comparison, dataclasses.replace(limit, min_psnr_db=None)))
    if not text:
        return Verdict(Outcome.PASSED, None, notes)
    if job.spec.engine == PHONE_ENGINE:
        return Verdict(Outcome.FAILED, f"phones run it under {PHONE_ENGINE}: {text}", notes)
    reason = f"packed for {job.variant.engine}, it is not meant for {job.spec.engine}, and differs there: {text}"
    return Verdict(Outcome.SKIPPED, reason, notes)


def _judge_own(answers: Answers, job: CellJob, outputs: FloatArray, comparison: Comparison, limit: Limit) -> Verdict:
    """Judge a variant as it ships: real images, probes, other settings, its golden logits."""
    problems, notes = [*out_of_limits(comparison, limit)], [*_engine_notes(job), *_emulated_notes(answers, job)]
    notes += _recipe_notes(answers, job, outputs)
    inside = answers.inside.get(job.variant.id, Inside())
    more = f" (and {len(inside.problems) - 2} more)" if len(inside.problems) > 2 else ""
    if problems and job.spec.runner == X86_ANDROID and is_plain_ptl(job.variant):
        problems.append(NEVER_ON_X86)
    everything = job.rows == "all"
    for found, told in (
        _probes(answers, job.variant, outputs, limit) if everything else ([], []),
        _settings(answers, job, outputs, limit) if everything else ([], []),
        (_golden(answers, job.variant, limit), []),
        told_beyond(answers.own(job).others.get(BEYOND), comparison.shifts),
        ([*inside.problems[:1], *(p + more for p in inside.problems[1:2])], inside.notes),
    ):
        problems += found
        notes += told
    if problems and not inside.problems and answers.own(job).result.actual.get("saturates"):
        return Verdict(Outcome.SKIPPED, f"{SATURATED}: {'; '.join(problems)}", notes)
    if problems or not inside.not_made:
        return Verdict(Outcome.FAILED if problems else Outcome.PASSED, "; ".join(problems) or None, notes)
    return Verdict(Outcome.SKIPPED, f"its answers are right, and {'; '.join(inside.not_made)}", notes)


def _engine_notes(job: CellJob) -> list[str]:
    if job.spec.engine is None or job.spec.engine == PHONE_ENGINE:
        return []
    return [f"ran under {job.spec.engine}; phones have {PHONE_ENGINE} alone"]


def _emulated_notes(answers: Answers, job: CellJob) -> list[str]:
    """Say so where an emulated runner was fed fewer images than the others."""
    rows = answers.feed.rows[job.rows]
    if not RUNNERS[job.spec.runner].is_emulated or len(rows) >= answers.feed.real.stop:
        return []
    return [f"fed the golden pack's {len(rows)} images alone, because it is emulated; --arm64-images all feeds all"]


def _recipe_notes(answers: Answers, job: CellJob, outputs: FloatArray) -> list[str]:
    """Tell on how many photos a file decides otherwise than each file of the same recipe that stands before it."""
    recipe, rows = job.variant.options.get("recipe"), answers.feed.judged(job.rows)
    if recipe is None or has_own_source(job.variant):
        return []
    own, told = outputs[: len(rows)].argmax(axis=1), []
    for other in takewhile(lambda v: v.id != job.variant.id, answers.manifest.variants):
        found = answers.of_file(other.id) if other.options.get("recipe") == recipe else None
        if found is not None:
            told.append(f"{int((own != found[rows].argmax(axis=1)).sum())} than {other.id}")
    return [f"of {len(rows)} images it decides otherwise, at the same recipe: {', '.join(told)}"] if told else []


def _probes(answers: Answers, variant: Variant, outputs: FloatArray, limit: Limit) -> tuple[list[str], list[str]]:
    """Judge the answers to inputs that no photo is; a flip counts there above the limits' `max_flip_margin` alone."""
    rows, names = answers.feed.probes, answers.feed.probe_names
    source, whole = answers.source(variant), answers.master()
    got, wanted, master, scale = outputs[rows], source[rows], whole[rows], scale_of(whole)
    infinite = [names[i] for i in np.flatnonzero(~np.isfinite(got).all(axis=1))]
    if infinite:
        return [f"NaN or infinite answers to: {', '.join(infinite)}"], []
    flipped = np.flatnonzero(got.argmax(axis=1) != master.argmax(axis=1))
    gaps = margins(master)
    if limit.is_close:
        close = {"rtol": limit.rtol, "atol": limit.atol, "scale": scale_of(source)}
        off = [names[i] for i in range(len(names)) if not is_close(got[i], wanted[i], **close)]
        if off:
            return [
                f"not equal to its eager source on: {', '.join(off)} (max |Δ| {np.abs(got - wanted).max():.3g})"
            ], []
    most = math.inf if limit.max_flip_margin is None else limit.max_flip_margin * scale
    wide = [names[i] for i in flipped if gaps[i] > most]
    if wide:
        return [f"decides otherwise than the float32 master on: {', '.join(wide)}"], []
    told = [f"{names[i]} (margin {gaps[i]:.2g})" for i in flipped]
    return [], [f"decides otherwise than the float32 master on synthetic inputs: {', '.join(told)}"] if told else []


def _settings(answers: Answers, job: CellJob, outputs: FloatArray, limit: Limit) -> tuple[list[str], list[str]]:
    """Judge the answers in other batches on other threads, against the variant's own."""
    assert job.job is not None
    other = next((setting for setting in job.job.others if setting.name == SETTINGS), None)
    if other is None:
        return [], []
    what = f"in batches of {other.batch_size} on {other.threads} threads"
    got = answers.own(job).others[SETTINGS]
    if isinstance(got, str):
        return [f"{what}: {got}"], []
    own = outputs[answers.feed.rows["few"]]
    if got.shape != own.shape:
        return [f"{what}: answers of the shape {got.shape}, not {own.shape}"], []
    if is_close(got, own, rtol=limit.rtol, atol=limit.atol):
        return [], []
    told = f"{what}: {difference(got, own)}"
    if job.variant.precision == "int8-dynamic":
        return [], [f"{told} (its activations are quantised over the whole batch)"]
    return ([told], []) if limit.is_close else ([], [told])


def _golden(answers: Answers, variant: Variant, limit: Limit) -> list[str]:
    """Hold the variant's own golden logits, which phones replay, against its eager source."""
    if variant.golden_logits_path is None:
        return []
    wanted = answers.source(variant)[answers.feed.golden]
    logits = np.fromfile(answers.bundle.path(variant.golden_logits_path), dtype="<f4")
    if logits.size != wanted.size:
        return [f"{variant.golden_logits_path} holds {logits.size} numbers; {wanted.size} are expected"]
    logits = logits.reshape(wanted.shape)
    if not np.isfinite(logits).all():
        return [f"{variant.golden_logits_path} holds NaN or infinite values"]
    span, rmse = np.ptp(wanted), np.sqrt(np.square(logits - wanted).mean())
    # Written an image at a time: in a batch, int8 rounds some activations over a border, which leaves 50 dB.
    floor = span * 10 ** (-min(limit.min_psnr_db or 30.0, _GOLDEN_PSNR_DB) / 20)
    if is_close(logits, wanted, rtol=limit.rtol, atol=limit.atol) or rmse <= floor:
        return []
    return [f"its golden logits are not its eager source's: {difference(logits, wanted)}"]
