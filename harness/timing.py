"""The two tasks of a worker that measure: times, and peak memory. Both run in the cell's own process."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.energy import energy_mj_per_call
from harness.stats import NOISY_WAITED_FRACTION, summarise
from udacisense.timing import collect_samples

if TYPE_CHECKING:
    from harness.cell import Job
    from harness.runners import FloatArray, Session

# The first calls are timed one by one: runtimes profile, specialise or allocate in them.
EARLY_CALLS = 10
# A sustained run keeps at most this many samples: each of them then averages over more calls.
_MOST_SAMPLES = 20_000


def measure_time(job: Job, session: Session, folder: Path) -> dict[str, Any]:
    """Time single calls on one batch: the first, the tenth, and the steady state after the warm-up.

    The answers to the first call go to ``outputs.npy``, so that the parent can tell a fast wrong model from a
    fast one.

    Returns:
        The fields of :class:`harness.types.Timing` but ``load_ms``, which the worker adds.
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

    waited_ns, start = _waited_ns(), perf_counter_ns()
    samples = collect_samples(
        call,
        warmup=max(0, spec.warmup - len(early_ms)),
        min_samples=spec.min_samples,
        min_s=spec.min_s,
        max_s=spec.max_s,
        min_sample_ms=max(1.0, spec.min_s * 1e3 / _MOST_SAMPLES),
    )
    waited = _waited_fraction(waited_ns, _waited_ns(), perf_counter_ns() - start)
    energy, energy_reason = energy_mj_per_call(call)
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
        "energy_mj": energy,
        "energy_reason": energy_reason,
    }


def measure_memory(job: Job, session: Session, folder: Path) -> dict[str, Any]:  # noqa: ARG001 - the tasks share one shape
    """Run a few calls and return ``peak_rss_bytes``: the most memory that this process ever held resident.

    Interpreter and runtime are part of it; the overhead floor's own peak says how much.
    """
    batch = take_batch(Path(job.inputs_path), job.spec.batch_size)
    for _ in range(EARLY_CALLS):
        session.run(batch)
    return {"peak_rss_bytes": peak_rss_bytes()}


def take_batch(inputs_path: Path, batch_size: int) -> FloatArray:
    """Return the first ``batch_size`` inputs, repeated where there are fewer: float32 (batch_size, 3, H, W)."""
    inputs = np.load(inputs_path, mmap_mode="r", allow_pickle=False)
    repeats = math.ceil(batch_size / len(inputs))
    return np.ascontiguousarray(np.concatenate([inputs] * repeats)[:batch_size], dtype=np.float32)


def _waited_ns() -> dict[str, int]:
    """Return thread id → nanoseconds that it was ready to run and waited for a core (Linux); empty elsewhere."""
    waited = {}
    for task in Path("/proc/self/task").glob("*/schedstat"):
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


def peak_rss_bytes() -> int:
    """Return this process's peak resident memory.

    Linux: ``VmHWM``. ``ru_maxrss`` would carry the parent's size over, because a process that was started by
    ``vfork`` and ``exec`` inherits the peak of the memory it was started from.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
