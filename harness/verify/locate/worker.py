"""The process behind ``--locate``: climb the ladder, run the file, look inside. Started by ``locate.run``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exporters.bundle.manifest import Variant
from exporters.bundle.open import open_bundle
from exporters.bundle.reference import has_own_source
from harness.runners.table import RUNNERS, CannotJudgeError, Session
from harness.runners.torch import configure
from harness.verify.compare import compare
from harness.verify.limits import limit_for, out_of_limits
from harness.verify.locate.first_difference import Suspect, first_difference, relative_error
from harness.verify.locate.job import RUNG_FILE, Found, LocateJob, RungError
from harness.verify.locate.rungs import SHIPPED, Context, Rung, climb
from harness.verify.locate.trace import Trace, one_by_one, trace_file
from udacisense.base.child import RESULT
from udacisense.base.records import Outcome, read_json, write_record
from udacisense.errors import UdacisenseError

FloatArray = NDArray[np.float32]

_EXACT = 1e-3  # relative RMS between rungs that compute the same
_EXACT_INT8 = 5e-3  # the same, where float32 rounding may carry an activation over an int8 border
# Rungs that lose precision on purpose: a layer that is off by more than this lost more than its precision takes.
_LOSSY = {"fp16": 0.02, "int8-weights": 0.1, "palette6": 0.2, "palette4": 0.5}
_LOSSY_INT8 = 0.35
_WORST = 4  # images that are looked at layer by layer


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is looked into."""

    job: LocateJob
    variant: Variant
    path: Path  # of the variant's file
    images: Tensor
    folder: Path  # what is found is left here

    def found(
        self,
        rungs: Sequence[RungError],
        rung: str | None,
        reason: str,
        *,
        suspect: Suspect | None = None,
        worst: tuple[int, ...] = (0,),
    ) -> Found:
        """Return the answer; see :class:`Found`."""
        return Found(
            schema_version=1,
            variant_id=self.variant.id,
            runner=self.job.runner,
            rungs=tuple(rungs),
            rung=rung,
            suspect=suspect,
            reason=reason,
            worst_inputs=worst,
        )


def main(folder: Path) -> None:
    """Do the job in ``folder`` and leave ``result.json``, ``expected.npy``, ``got.npy`` and the rung's model."""
    job = read_json(LocateJob, folder / LocateJob.FILE_NAME)
    configure(job.engine, job.threads)
    bundle = open_bundle(Path(job.bundle))
    variant = bundle.variant(job.variant_id)
    images = torch.from_numpy(np.load(job.inputs_path, allow_pickle=False))

    def reached(name: str) -> None:
        (folder / RUNG_FILE).write_text(name, encoding="utf-8")

    context = Context(bundle=bundle, variant=variant, example=images[:1], allow_factory=job.allow_factory)
    case = Case(job=job, variant=variant, path=bundle.path(str(variant.path)), images=images, folder=folder)
    rungs = climb(context, images, reached=reached)
    errors, broken = judge_rungs(rungs, variant)
    if broken is None:
        reached(SHIPPED)
        found = _in_file(case, rungs, errors)
    else:
        found = in_rung(case, rungs[: broken + 1], errors)
    write_record(folder / RESULT, found)


def judge_rungs(rungs: Sequence[Rung], variant: Variant) -> tuple[list[RungError], int | None]:
    """Hold each rung against the one below; return their errors up to the first that is out of tolerance."""
    errors = [_held(rungs[0].name, None, None, ())]
    for i in range(1, len(rungs)):
        below, rung = rungs[i - 1], rungs[i]
        problems = _problems(rung.name, rung.outputs, below.outputs, variant)
        errors.append(_held(rung.name, rung.outputs, below.outputs, problems))
        if problems:
            return errors, i
    return errors, None


def _problems(name: str, outputs: FloatArray, below: FloatArray, variant: Variant) -> tuple[str, ...]:
    if outputs.shape != below.shape:
        return (f"the answers have the shape {outputs.shape}, not {below.shape}",)
    if not _is_lossy(name, variant):
        error = relative_error(outputs, below)
        limit = _exact(variant)
        return (f"its answers are off by {error:.3g} of their size, {limit:g} is rounding",) if error > limit else ()
    limit_row = limit_for({}, variant)
    if name != SHIPPED:  # noise against the source of another precision is what quantising is
        limit_row = dataclasses.replace(limit_row, min_psnr_db=None)
    names = [str(i) for i in range(below.shape[1])]
    found = compare(outputs, below, below, labels=None, class_names=names, rtol=limit_row.rtol, atol=limit_row.atol)
    return out_of_limits(found, limit_row)


def _is_lossy(name: str, variant: Variant) -> bool:
    return name == "quantised" or (name == SHIPPED and variant.precision != "fp32" and not has_own_source(variant))


def _exact(variant: Variant) -> float:
    return _EXACT_INT8 if has_own_source(variant) else _EXACT


def _tolerance(name: str, variant: Variant) -> float:
    return _LOSSY.get(variant.precision, _LOSSY_INT8) if _is_lossy(name, variant) else _exact(variant)


def _held(name: str, outputs: FloatArray | None, below: FloatArray | None, problems: Sequence[str]) -> RungError:
    comparable = outputs is not None and below is not None and outputs.shape == below.shape
    error = relative_error(outputs, below) if comparable and outputs is not None and below is not None else None
    finite = error is not None and np.isfinite(error)
    return RungError(
        name=name,
        max_abs=float(np.abs(outputs - below).max()) if finite and outputs is not None and below is not None else None,
        relative=error if finite else None,
        outcome=Outcome.FAILED if problems else Outcome.PASSED,
        reason="; ".join(problems) or None,
    )


def _worst(outputs: FloatArray, below: FloatArray) -> tuple[int, ...]:
    if outputs.shape != below.shape:
        return tuple(range(min(_WORST, len(below))))
    difference = np.nan_to_num(np.abs(outputs - below), nan=np.inf, posinf=np.inf).max(axis=1)
    return tuple(int(i) for i in np.argsort(-difference, kind="stable")[:_WORST])


def in_rung(case: Case, rungs: Sequence[Rung], errors: Sequence[RungError]) -> Found:
    """Look inside the last of these rungs, which was made again here."""
    below, rung = rungs[-2], rungs[-1]
    worst = _kept(case, rung.outputs, below.outputs)
    chosen = case.images[list(worst)]
    lossy = _is_lossy(rung.name, case.variant)
    got = rung.trace(chosen)
    expected = _source_trace(rungs[:-1], chosen, len(got.layers))
    suspect = first_difference(expected, got, _tolerance(rung.name, case.variant), largest_else=lossy)
    with torch.inference_mode():
        script = (
            rung.model
            if isinstance(rung.model, torch.jit.ScriptModule)
            else torch.jit.trace(rung.model, case.images[:1], check_trace=False)  # type: ignore[no-untyped-call]
        )
    torch.jit.save(script, str(case.folder / "rung.pt"))  # type: ignore[no-untyped-call]
    reason = f"It breaks where it is {rung.name}, {suspect.where}: {errors[-1].reason}."
    return case.found(errors, rung.name, reason, suspect=suspect, worst=worst)


def _source_trace(rungs: Sequence[Rung], images: Tensor, layers: int) -> Trace:
    """Trace what a suspect is held against: the last eager rung, which has the source's own names for its layers.

    Where it calls layers in another way than as modules the rung right below stands in.
    """
    eager = next(rung for rung in reversed(rungs) if not isinstance(rung.model, torch.jit.ScriptModule))
    trace = eager.trace(images)
    return trace if len(trace.layers) == layers else rungs[-1].trace(images)


def _in_file(case: Case, rungs: Sequence[Rung], errors: Sequence[RungError]) -> Found:
    """Run the file itself and look inside it."""
    job, variant, below = case.job, case.variant, rungs[-1]
    name = f"{SHIPPED} in {job.runner}"
    try:
        session = RUNNERS[job.runner].load(case.path, variant, engine=job.engine, threads=job.threads)
        outputs = _answers(session, variant, case.images)
        again = _answers(session, variant, case.images[:8])
    except (UdacisenseError, CannotJudgeError) as exc:
        errors = (*errors, _held(name, None, None, (str(exc),)))
        return case.found(errors, name, str(exc))
    problems = _problems(SHIPPED, outputs, below.outputs, variant)
    if not np.array_equal(again, outputs[:8], equal_nan=True):
        problems = (*problems, "the same input gives another answer each time: a dropout was left on, or state is kept")
    errors = (*errors, _held(name, outputs, below.outputs, problems))
    if not problems:
        return case.found(errors, None, "Every rung is within tolerance.", worst=())
    worst = _kept(case, outputs, below.outputs)
    suspect, where = _inside(case, rungs, case.images[list(worst)])
    reason = f"It breaks in {name}{where}: {'; '.join(problems)}."
    return case.found(errors, name, reason, suspect=suspect, worst=worst)


def _kept(case: Case, outputs: FloatArray, below: FloatArray) -> tuple[int, ...]:
    """Keep the answers that are furthest off, and return their rows."""
    worst = _worst(outputs, below)
    np.save(case.folder / "expected.npy", below[list(worst)])
    np.save(case.folder / "got.npy", outputs[list(worst)])
    return worst


def _inside(case: Case, rungs: Sequence[Rung], images: Tensor) -> tuple[Suspect | None, str]:
    variant = case.variant
    try:
        got = one_by_one(lambda one: trace_file(variant.format, case.path, one), images)
    except CannotJudgeError as exc:
        return None, f" ({exc})"
    expected = _source_trace(rungs, images, len(got.layers))
    suspect = first_difference(expected, got, _tolerance(SHIPPED, variant), largest_else=_is_lossy(SHIPPED, variant))
    return suspect, f", {suspect.where}"


def _answers(session: Session, variant: Variant, images: Tensor) -> FloatArray:
    size = variant.batch or 1
    batches = [session.run(image.expand(size, -1, -1, -1).numpy())[:1] for image in images.split(1)]  # type: ignore[no-untyped-call]
    return np.concatenate(batches)
