"""The two tasks of a worker that measure: times, and peak memory. Both run in the cell's own process.

A session whose model is held by another process names it in an attribute ``model_pid``; most have none.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import numpy as np

from udacisense.errors import InferenceError
from udacisense.measure.stats import NOISY_WAITED_FRACTION, summarise
from udacisense.measure.timing import collect_samples

if TYPE_CHECKING:
    from harness.cell.run import Job
    from harness.runners.table import FloatArray, Session

# The first calls are timed one by one: runtimes profile, specialise or allocate in them.
EARLY_CALLS = 10
# A sustained run keeps at most this many samples: each of them then averages over more calls.
_MOST_SAMPLES = 20_000


def measure_time(job: Job, session: Session, folder: Path) -> dict[str, Any]:
    """Time single calls on one batch: the first, the tenth, and the steady state after the warm-up.

    The answers to the first call go to ``outputs.npy``, so that the parent can tell a fast wrong model from a
    fast one.

    Returns:
        The fields of :class:`harness.records.Timing` but ``load_ms``, which the worker adds.
    """
    spec = job.spec
    batch = take_batch(Path(job.inputs_path), spec.batch_size)
    early_ms: list[float] = []
    outputs = session.run  # looked up once: the timed loop should hold the call and nothing else
    deadline = perf_counter_ns() + int(spec.max_s * 1e9)
    while len(early_ms) < EARLY_CALLS and (not early_ms or perf_counter_ns() < deadline):
        start = perf_counter_ns()
        answers = outputs(batch)
        early_ms.append((perf_counter_ns() - start) / 1e6)
        if len(early_ms) == 1:
            np.save(folder / "outputs.npy", answers)

    def call() -> object:
        return outputs(batch)

    pid = model_pid(session)
    waited_ns, start = _waited_ns(pid), perf_counter_ns()
    samples = collect_samples(
        call,
        warmup=max(0, spec.warmup - len(early_ms)),
        min_samples=spec.min_samples,
        min_s=spec.min_s,
        max_s=spec.max_s,
        min_sample_ms=max(1.0, spec.min_s * 1e3 / _MOST_SAMPLES),
    )
    waited = _waited_fraction(waited_ns, _waited_ns(pid), perf_counter_ns() - start)
    summary = summarise(samples.samples_ms)
    return {
        "samples_ms": list(samples.samples_ms),
        "calls_per_sample": samples.calls_per_sample,
        "first_ms": early_ms[0],
        "tenth_ms": early_ms[EARLY_CALLS - 1] if len(early_ms) == EARLY_CALLS else None,
        "median_ms": summary.median_ms,
        "p90_ms": summary.p90_ms,
        "p99_ms": summary.p99_ms,
        "iqr_fraction": summary.iqr_fraction,
        "drift_fraction": summary.drift_fraction,
        "waited_fraction": waited,
        "noisy": summary.noisy or (waited or 0.0) > NOISY_WAITED_FRACTION,
    }


def measure_memory(job: Job, session: Session, folder: Path) -> dict[str, Any]:  # noqa: ARG001 - the tasks share one shape
    """Run a few calls and return ``peak_rss_bytes``: the most memory that the model's process ever held resident.

    That is this process, or the one that the session names; the two are never added. Interpreter and runtime are part
    of it; the overhead floor's own peak says how much.
    """
    batch = take_batch(Path(job.inputs_path), job.spec.batch_size)
    for _ in range(EARLY_CALLS):
        session.run(batch)
    return {"peak_rss_bytes": peak_rss_bytes(model_pid(session))}


def model_pid(session: Session) -> int | None:
    """Return the id of the process that holds a session's model; None where it is this one."""
    pid: int | None = getattr(session, "model_pid", None)
    return pid


def take_batch(inputs_path: Path, batch_size: int) -> FloatArray:
    """Return the first ``batch_size`` inputs, repeated where there are fewer: float32 (batch_size, 3, H, W)."""
    inputs = np.load(inputs_path, mmap_mode="r", allow_pickle=False)
    repeats = math.ceil(batch_size / len(inputs))
    return np.ascontiguousarray(np.concatenate([inputs] * repeats)[:batch_size], dtype=np.float32)


def _waited_ns(pid: int | None = None) -> dict[str, int]:
    """Return thread id → nanoseconds that it was ready to run and waited for a core (Linux); empty elsewhere.

    Of this process's threads, and of those of ``pid``.
    """
    waited = {}
    processes = ["self"] if pid is None else ["self", str(pid)]
    for task in (path for name in processes for path in Path(f"/proc/{name}/task").glob("*/schedstat")):
        try:
            waited[task.parent.name] = int(task.read_text().split()[1])
        except (OSError, IndexError, ValueError):  # the thread has just ended, or the kernel does not count
            continue
    return waited


def _waited_fraction(before: dict[str, int], after: dict[str, int], elapsed_ns: int) -> float | None:
    """Return the share of the thread that waited longest: the others wait for it."""
    if not after:
        return None
    return max(total - before.get(name, 0) for name, total in after.items()) / elapsed_ns


def peak_rss_bytes(pid: int | None = None) -> int:
    """Return the peak resident memory of this process, or of ``pid``.

    Linux: ``VmHWM``. ``ru_maxrss`` would carry the parent's size over, because a process that was started by
    ``vfork`` and ``exec`` inherits the peak of the memory it was started from.

    Raises:
        InferenceError: ``pid`` has ended.
    """
    status = Path(f"/proc/{'self' if pid is None else pid}/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if pid is not None:
        raise InferenceError("The process that holds the model has ended; its memory is not known.")
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
