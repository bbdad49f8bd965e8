"""What a worker's two measuring tasks answer, on real sessions and on calls whose duration is known."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from exporters.bundle.manifest import plain
from harness.bench.jobs import write_floor
from harness.cell.measure import _waited_ns, measure_memory, measure_time, peak_rss_bytes, take_batch
from harness.cell.run import Job, run_cell
from harness.records import RunSpec, Timing
from harness.runners.table import FloatArray
from udacisense.base.records import Outcome, from_json
from udacisense.errors import InferenceError

SHAPE = (1, 3, 8, 8)


class Sleeper:
    """A session whose calls last a known time, the first one longer."""

    actual: dict[str, str | int | float | bool | None] = {}  # noqa: RUF012

    def __init__(self, call_s: float, first_s: float) -> None:
        self.calls = 0
        self._call_s = call_s
        self._first_s = first_s

    def run(self, batch: FloatArray) -> FloatArray:
        time.sleep(self._first_s if self.calls == 0 else self._call_s)
        self.calls += 1
        return np.zeros((len(batch), 10), dtype=np.float32)


def make_job(folder: Path, *, format_name: str = "onnx", runner: str = "onnxruntime", task: str = "time") -> Job:
    path = write_floor(format_name, folder, shape=SHAPE, classes=10)
    inputs = np.random.default_rng(0).random((4, *SHAPE[1:]), dtype=np.float32)
    np.save(folder / "inputs.npy", inputs)
    spec = RunSpec(
        variant_id="floor",
        runner=runner,
        engine=None,
        threads=1,
        batch_size=1,
        warmup=10,
        min_samples=5,
        min_s=0.02,
        max_s=0.5,
        timeout_s=60,
        seed=0,
    )
    return Job(
        task=task,  # type: ignore[arg-type]
        spec=spec,
        variant=plain("floor", format_name),
        model_path=str(path),
        inputs_path=str(folder / "inputs.npy"),
        others=(),
    )


def test_first_and_tenth_call_are_apart_from_the_steady_state(tmp_path: Path) -> None:
    values = measure_time(make_job(tmp_path), Sleeper(0.002, 0.05), tmp_path)
    timing = from_json(Timing, json.dumps({**values, "load_ms": 1.0}), source="the task")
    assert timing.first_ms >= 50
    assert timing.tenth_ms is not None
    assert 2 <= timing.tenth_ms < timing.first_ms
    assert min(timing.samples_ms) >= 2
    assert timing.calls_per_sample == 1
    assert len(timing.samples_ms) >= 5
    assert timing.median_ms == pytest.approx(float(np.median(timing.samples_ms)))


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the kernel does not count waiting for a core")
def test_a_steady_neighbour_on_the_same_core_is_noise(tmp_path: Path) -> None:
    class Busy(Sleeper):
        def run(self, batch: FloatArray) -> FloatArray:
            end = time.thread_time() + 0.002
            while time.thread_time() < end:
                pass
            return super().run(batch)

    core = min(os.sched_getaffinity(0))
    loop = subprocess.Popen(
        [sys.executable, "-c", f"import os; os.sched_setaffinity(0, {{{core}}}); print(flush=True)\nwhile True: pass"],
        stdout=subprocess.PIPE,
    )
    allowed = os.sched_getaffinity(0)
    try:
        assert loop.stdout is not None
        loop.stdout.readline()
        os.sched_setaffinity(0, {core})
        values = measure_time(make_job(tmp_path), Busy(0, 0), tmp_path)
    finally:
        os.sched_setaffinity(0, allowed)
        loop.kill()
        loop.communicate()
    assert values["waited_fraction"] > 0.2
    assert values["noisy"]


def test_calls_too_slow_for_ten_have_no_tenth(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    session = Sleeper(0.03, 0.03)
    values = measure_time(replace(job, spec=replace(job.spec, min_s=0.01, max_s=0.05)), session, tmp_path)
    assert values["tenth_ms"] is None
    assert session.calls < 40, "the time limit bounds the early calls, the warm-up and the samples"


def test_a_call_far_below_a_millisecond_is_timed_in_batches_of_a_millisecond(tmp_path: Path) -> None:
    result = run_cell(make_job(tmp_path)).result
    assert result.outcome is Outcome.PASSED, result.reason
    timing = from_json(Timing, json.dumps(result.values), source="the worker")
    assert timing.calls_per_sample > 1
    assert timing.median_ms < 1
    assert timing.load_ms > 0


def test_the_first_answers_come_back(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    cell = run_cell(job)
    expected = take_batch(Path(job.inputs_path), 1).reshape(1, -1)[:, :10]
    assert cell.outputs is not None
    np.testing.assert_array_equal(cell.outputs, expected)


@pytest.mark.parametrize(
    ("format_name", "runner"), [("onnx", "onnxruntime"), ("torchscript", "torchscript"), ("ptl", "lite")]
)
def test_memory_is_that_of_the_workers_process(tmp_path: Path, format_name: str, runner: str) -> None:
    ballast = np.ones(80_000_000)  # 640 MB in the parent must not show in the child's peak
    result = run_cell(make_job(tmp_path, format_name=format_name, runner=runner, task="memory")).result
    assert result.outcome is Outcome.PASSED, result.reason
    assert 10_000_000 < int(result.values["peak_rss_bytes"]) < ballast.nbytes


def test_peak_memory_grows_with_what_is_allocated(tmp_path: Path) -> None:
    job = make_job(tmp_path, task="memory")

    class Hungry(Sleeper):
        def run(self, batch: FloatArray) -> FloatArray:
            np.ones(40_000_000)  # 320 MB, held for this call alone
            return super().run(batch)

    before = peak_rss_bytes()
    measure_memory(job, Hungry(0, 0), tmp_path)
    assert peak_rss_bytes() >= before
    assert peak_rss_bytes() > 320_000_000


class Remote(Sleeper):
    """A session whose model is held by a child that allocates ``ballast_bytes`` and works 2 ms a call."""

    _CODE = (
        "import os, sys, time\n"
        "os.sched_setaffinity(0, {int(sys.argv[2])})\n"
        "ballast = bytearray(b'x') * int(sys.argv[1])\n"
        "for line in sys.stdin.buffer:\n"
        "    end = time.thread_time() + 0.002\n"
        "    while time.thread_time() < end: pass\n"
        "    os.write(1, line)\n"
    )

    def __init__(self, ballast_bytes: int, core: int) -> None:
        super().__init__(0, 0)
        words = [sys.executable, "-c", self._CODE, str(ballast_bytes), str(core)]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self.model_pid = self.process.pid

    def run(self, batch: FloatArray) -> FloatArray:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"\n")
        self.process.stdout.read(1)
        return super().run(batch)

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux shows another process's peak")
def test_a_model_in_another_process_is_measured_there(tmp_path: Path) -> None:
    job = make_job(tmp_path, task="memory")
    np.ones(60_000_000)  # 480 MB here must not show
    with Remote(200_000_000, min(os.sched_getaffinity(0))) as session:
        assert 200_000_000 < measure_memory(job, session, tmp_path)["peak_rss_bytes"] < 300_000_000
    with pytest.raises(InferenceError, match="has ended"):
        peak_rss_bytes(session.model_pid)


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the kernel does not count waiting for a core")
def test_a_neighbour_of_the_other_process_is_noise(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    job = make_job(tmp_path)
    loop = subprocess.Popen(
        [sys.executable, "-c", f"import os; os.sched_setaffinity(0, {{{core}}}); print(flush=True)\nwhile True: pass"],
        stdout=subprocess.PIPE,
    )
    try:
        assert loop.stdout is not None
        loop.stdout.readline()
        with Remote(1, core) as session:
            assert str(session.model_pid) in _waited_ns(session.model_pid)
            assert str(session.model_pid) not in _waited_ns()
            values = measure_time(job, session, tmp_path)
    finally:
        loop.kill()
        loop.communicate()
    assert values["waited_fraction"] > 0.2
    assert values["noisy"]


def test_a_batch_larger_than_the_inputs_repeats_them(tmp_path: Path) -> None:
    inputs = np.arange(3 * 2, dtype=np.float32).reshape(3, 2, 1, 1)
    np.save(tmp_path / "i.npy", inputs)
    batch = take_batch(tmp_path / "i.npy", 7)
    np.testing.assert_array_equal(batch[:, :, 0, 0], inputs[[0, 1, 2, 0, 1, 2, 0], :, 0, 0])
    assert take_batch(tmp_path / "i.npy", 2).shape == (2, 2, 1, 1)
