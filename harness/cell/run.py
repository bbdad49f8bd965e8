"""One cell, one process: start the worker, wait, and turn whatever happens into a result.

A crash, a hang or garbage where the answer should be becomes a failed :class:`CellResult` with the signal, the
exit code or the time limit in its reason; the parent never falls with its worker.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from exporters.bundle.manifest import Loadable
from exporters.toolchain.setup import python_of
from harness.records import RunSpec
from harness.runners.table import RUNNERS
from udacisense.base.child import RESULT, run_child
from udacisense.base.records import Outcome, Scalar, from_json, record, write_record

Task = Literal["outputs", "time", "memory"]


@record
class Setting:
    """The same file loaded again in the same process, under other settings."""

    name: str  # its outputs are kept by it
    engine: str | None
    threads: int
    batch_size: int
    inputs_path: str  # absolute


@record
class Job:
    """What a worker is asked to do; ``job.json`` in its folder."""

    task: Task
    spec: RunSpec
    variant: Loadable
    model_path: str  # absolute
    inputs_path: str  # absolute, .npy, float32 (n, 3, H, W) as the variant takes it
    others: tuple[Setting, ...]  # of the task "outputs": run afterwards, one after the other


def answering_job(
    variant: Loadable,
    runner: str,
    path: Path,
    inputs: Path,
    *,
    engine: str | None,
    threads: int,
    batch_size: int,
    timeout_s: float,
) -> Job:
    """Return the job of a cell that answers every input once, in batches, and is not timed."""
    spec = RunSpec(
        variant_id=variant.id,
        runner=runner,
        engine=engine,
        threads=threads,
        batch_size=batch_size,
        warmup=0,
        min_samples=1,
        min_s=0.0,
        max_s=timeout_s,
        timeout_s=timeout_s,
        seed=0,
    )
    return Job(
        task="outputs",
        spec=spec,
        variant=variant,
        model_path=str(path.absolute()),
        inputs_path=str(inputs.absolute()),
        others=(),
    )


@record
class CellResult:
    """What a worker answers; ``result.json`` in its folder."""

    outcome: Outcome
    reason: str | None
    exit_code: int  # as on the command line: 0, 3 would not load, 4 failed while running
    actual: dict[str, Scalar]
    values: dict[str, Any]  # the task's own answer


@dataclass(frozen=True)
class Cell:
    """A worker's answer, with its outputs where the task was ``outputs``."""

    result: CellResult
    outputs: NDArray[np.float32] | None
    others: Mapping[str, NDArray[np.float32] | str] = field(default_factory=dict)  # by setting: outputs, or why none


def run_cell(job: Job) -> Cell:
    """Run one job in a process of its own, for at most ``job.spec.timeout_s`` seconds.

    Where the process dies and the job has other settings too, it runs once more without them: a crash under a
    setting that was only tried must not hide how the file does under its own.
    """
    cell = _run_once(job)
    if not job.others or cell.result.outcome is not Outcome.FAILED:
        return cell
    alone = _run_once(dataclasses.replace(job, others=()))
    if alone.result.outcome is Outcome.FAILED:
        return alone
    reason = cell.result.reason or "no reason was given"
    return dataclasses.replace(alone, others=dict.fromkeys((other.name for other in job.others), reason))


def _run_once(job: Job) -> Cell:
    with tempfile.TemporaryDirectory(prefix="udacisense-cell-") as name:
        folder = Path(name)
        write_record(folder / "job.json", job)
        failure = run_child(
            "harness.cell.worker",
            folder,
            threads=job.spec.threads,
            timeout_s=job.spec.timeout_s,
            shares_cores=job.task == "outputs",
            python=python_of(RUNNERS[job.spec.runner].toolchain),
        )
        if failure is not None:
            return Cell(_failed(failure, 4 if (folder / "loaded").exists() else 3), None)
        try:
            result = from_json(CellResult, (folder / RESULT).read_bytes(), source="the worker's answer")
            outputs = _present(folder / "outputs.npy") if (folder / "outputs.npy").exists() else None
            reasons = result.values.get("others", {})
            others = {
                other.name: reasons[other.name] if other.name in reasons else _present(folder / f"{other.name}.npy")
                for other in (job.others if result.outcome is Outcome.PASSED else ())
            }
        # NumPy tells of damage by whatever its parsing runs into: TokenError, EOFError, MemoryError, ...
        except Exception as exc:
            return Cell(_failed(f"the worker's answer could not be read: {exc}", 4), None)
        return Cell(result, outputs, others)


def _present(path: Path) -> NDArray[np.float32]:
    # Not np.load, which also reads other kinds of files, and leaves those open that it cannot.
    with path.open("rb") as stream:
        outputs: NDArray[np.float32] = np.lib.format.read_array(stream, allow_pickle=False)
    return outputs


def _failed(reason: str, exit_code: int) -> CellResult:
    return CellResult(outcome=Outcome.FAILED, reason=reason, exit_code=exit_code, actual={}, values={})
