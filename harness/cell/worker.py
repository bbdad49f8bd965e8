"""The process behind one cell: load the variant, do the task, leave the answer. Started by ``harness.cell.run``."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.cell.identity import read_identity
from harness.cell.measure import measure_memory, measure_time
from harness.cell.run import CellResult, Job
from harness.runners.table import RUNNERS, CannotJudgeError, FloatArray, Session
from udacisense.base.child import RESULT
from udacisense.base.records import Outcome, read_json, write_record
from udacisense.errors import UdacisenseError

if TYPE_CHECKING:
    from exporters.bundle.manifest import Loadable


def measure_outputs(job: Job, session: Session, folder: Path) -> dict[str, Any]:
    """Run every input once, in batches of ``batch_size``; the outputs go to ``outputs.npy``.

    Then the same under each of the job's other settings, to ``<name>.npy``.

    Returns:
        ``metadata``: what the file says about itself, JSON; None where it says nothing. ``others``: why a setting
        gave no outputs, by name.
    """
    np.save(folder / "outputs.npy", _answers(session, job.variant, job.inputs_path, job.spec.batch_size))
    reasons = {}
    for other in job.others:
        try:
            again = _load(job, engine=other.engine, threads=other.threads)
            np.save(folder / f"{other.name}.npy", _answers(again, job.variant, other.inputs_path, other.batch_size))
        except UdacisenseError as exc:
            reasons[other.name] = str(exc)
    return {"metadata": read_identity(job.variant, Path(job.model_path)), "others": reasons}


def _answers(session: Session, variant: Loadable, inputs_path: str, batch_size: int) -> FloatArray:
    """Answer every input; a fixed batch is filled up with the last input, and what answers that is dropped."""
    inputs = np.load(inputs_path, mmap_mode="r", allow_pickle=False)
    outputs = []
    for start in range(0, len(inputs), batch_size):
        batch = np.ascontiguousarray(inputs[start : start + batch_size])
        missing = batch_size - len(batch) if variant.batch is not None else 0
        outputs.append(session.run(np.concatenate([batch, *[batch[-1:]] * missing]))[: len(batch)])
    return np.concatenate(outputs)


TASKS = {"outputs": measure_outputs, "time": measure_time, "memory": measure_memory}


def main(folder: Path) -> None:
    """Do the job in ``folder/job.json`` and write ``folder/result.json``."""
    job = read_json(Job, folder / "job.json")
    try:
        result = _do(job, folder)
    except UdacisenseError as exc:
        result = CellResult(outcome=Outcome.FAILED, reason=str(exc), exit_code=exc.exit_code, actual={}, values={})
    except CannotJudgeError as exc:
        result = CellResult(outcome=Outcome.SKIPPED, reason=str(exc), exit_code=0, actual={}, values={})
    write_record(folder / RESULT, result)


def _do(job: Job, folder: Path) -> CellResult:
    runner = RUNNERS[job.spec.runner]
    reason = runner.unavailable()
    if reason is not None:
        return CellResult(outcome=Outcome.SKIPPED, reason=reason, exit_code=0, actual={}, values={})
    if job.task == "outputs" and job.variant.format == "onnx":
        # onnxruntime follows the names of other files, wherever they lie; this raises before it can.
        from exporters.preflight.onnx_facts import load_model

        load_model(Path(job.model_path))
    start = perf_counter_ns()
    session = _load(job, engine=job.spec.engine, threads=job.spec.threads)
    load_ms = (perf_counter_ns() - start) / 1e6
    (folder / "loaded").touch()  # tells a crash while running from a crash while loading
    values = TASKS[job.task](job, session, folder)
    if job.task == "time":
        values["load_ms"] = load_ms
    return CellResult(outcome=Outcome.PASSED, reason=None, exit_code=0, actual=dict(session.actual), values=values)


def _load(job: Job, *, engine: str | None, threads: int) -> Session:
    return RUNNERS[job.spec.runner].load(Path(job.model_path), job.variant, engine=engine, threads=threads)
