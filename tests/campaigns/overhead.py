"""What the harness adds to the calls that it times.

Run it on a quiet host, from the repository's root: ``.venv/bin/python tests/campaigns/overhead.py``. It writes its
figures to ``tests/campaigns/overhead.json``; it takes half a minute and is no part of the test run.

Two ways. The worker's own task times a session that does nothing: what it then reports is its own cost of a call,
exactly. And it times an onnxruntime session of about 0.3 ms by turns with a bare loop around the same session, in one
process: the ratio of each pair, with its interval.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import sys
import tempfile
from pathlib import Path
from time import perf_counter_ns
from typing import Any, ClassVar, cast

import numpy as np
from aa_trials import make_job, write_network

from harness.cell.measure import measure_time, take_batch
from harness.cell.run import Job
from harness.host import read_host
from harness.records import Host
from harness.runners.table import RUNNERS, FloatArray, Session
from udacisense.base.records import Scalar, record, write_record
from udacisense.measure.stats import ratio

HERE = Path(__file__).resolve().parent
GOAL_MS = 0.3


@record
class Figures:
    """What the harness adds."""

    host: Host
    load_before: float
    empty_call_ns: float  # of a session that does nothing, as the harness reports it
    fraction_of_goal_call: float  # that, of a call of 0.3 ms
    call_ms: float  # of the real session, in the bare loop
    paired_ratio: tuple[float, float, float]  # harness to bare loop: ratio, low, high
    pairs: int


class Empty:
    """A session that does nothing: a built-in function, the cheapest call that Python has."""

    run = staticmethod(cast("Any", len))
    actual: ClassVar[dict[str, Scalar]] = {}


def bare_ms(session: Session, batch: FloatArray, seconds: float) -> float:
    """Call the session in the plainest loop there is; return milliseconds a call."""
    run, calls = session.run, 64
    for _ in range(calls):
        run(batch)
    samples, end = [], perf_counter_ns() + int(seconds * 1e9)
    while perf_counter_ns() < end:
        start = perf_counter_ns()
        for _ in range(calls):
            run(batch)
        samples.append((perf_counter_ns() - start) / calls / 1e6)
    return statistics.median(samples)


def harness_ms(job: Job, session: Session, folder: Path) -> float:
    return float(measure_time(job, session, folder)["median_ms"])


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the harness's own cost.")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--layers", type=int, default=2, help="of the network; its call should take about 0.3 ms")
    parser.add_argument("--out", type=Path, default=HERE / "overhead.json")
    given = parser.parse_args()
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs = folder / "inputs.npy"
        np.save(inputs, np.random.default_rng(1).random((1, 3, 32, 32), dtype=np.float32))
        job = make_job(write_network(folder / "network.onnx", given.layers), inputs, threads=1, min_s=0.4)
        session = RUNNERS["onnxruntime"].load(Path(job.model_path), job.variant, engine=None, threads=1)
        batch = take_batch(inputs, 1)
        empty_ms = statistics.median(harness_ms(job, Empty(), folder) for _ in range(5))
        bare, ours = {}, {}
        for number in range(given.pairs):
            for loop in ("bare", "ours") if number % 2 else ("ours", "bare"):
                if loop == "bare":
                    bare[number] = bare_ms(session, batch, 0.4)
                else:
                    ours[number] = harness_ms(job, session, folder)
    found = ratio(ours, bare, seed=0)
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    figures = Figures(
        host=read_host(),
        load_before=before,
        empty_call_ns=1e6 * empty_ms,
        fraction_of_goal_call=empty_ms / GOAL_MS,
        call_ms=statistics.median(bare.values()),
        paired_ratio=(found.value, found.low, found.high),
        pairs=given.pairs,
    )
    write_record(given.out, figures)
    shown = dataclasses.asdict(figures)
    shown.pop("host")
    sys.stdout.write("\n".join(f"{key}: {value}" for key, value in shown.items()) + "\n")


if __name__ == "__main__":
    main()
