"""Does the harness tell equal from different? A/A trials, a planted 5 % slowdown, and a noisy neighbour.

Run it on a quiet host, from the repository's root: ``.venv/bin/python tests/campaigns/aa_trials.py``. It writes its
figures to ``tests/campaigns/aa_trials.json``; it takes about ten minutes and is no part of the test run.

Three files are timed as a sweep times them, a process per file and round, shuffled: a network of 20 equal
convolutions, a copy of it, and one of 21, which does 5 % more work. In each trial the first and the copy should be
called a tie, and the third slower. Afterwards the first runs on every core beside a busy loop: its cells should be
NOISY, or right all the same.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from exporters.bundle.manifest import plain
from harness.cell.run import Job, run_cell
from harness.host import read_host, usable_cores
from harness.records import Host, RunSpec
from udacisense.base.records import Outcome, record, write_record
from udacisense.measure.stats import Interval, ratio

LAYERS = 20
CHANNELS = 32
HERE = Path(__file__).resolve().parent


@record
class Trial:
    """One trial: how the copy and the slowed file compare with the first."""

    seed: int
    same: tuple[float, float, float]  # ratio, low, high
    slower: tuple[float, float, float]
    is_tie: bool
    is_found: bool


@record
class Neighbour:
    """The first file beside a busy loop."""

    quiet_ms: float
    busy_ms: tuple[float, ...]
    noisy: tuple[bool, ...]


@record
class Figures:
    """What the campaign found."""

    host: Host
    load_before: float
    load_after: float
    rounds: int
    ties: int
    found: int
    noisy_or_right: int  # processes beside a busy loop that were NOISY, or within 10 % of the quiet time
    trials: tuple[Trial, ...]
    neighbour: Neighbour


def write_network(path: Path, layers: int) -> Path:
    """Write (N, 3, 32, 32) → ``layers`` convolutions of 32 channels, 3 × 3 → mean → (N, 32)."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    nodes, weights, name, inputs = [], [], "input", 3
    for layer in range(layers + 1):
        values = rng.normal(0, 0.05, (CHANNELS, inputs, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(values, f"w{layer}"))
        nodes.append(helper.make_node("Conv", [name, f"w{layer}"], [f"c{layer}"], pads=[1, 1, 1, 1]))
        name, inputs = f"c{layer}", CHANNELS
    nodes += [helper.make_node("GlobalAveragePool", [name], ["m"]), helper.make_node("Flatten", ["m"], ["logits"])]
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CHANNELS])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


def make_job(path: Path, inputs: Path, *, threads: int, min_s: float) -> Job:
    spec = RunSpec(
        variant_id=path.stem,
        runner="onnxruntime",
        engine=None,
        threads=threads,
        batch_size=1,
        warmup=20,
        min_samples=30,
        min_s=min_s,
        max_s=3.0,
        timeout_s=120.0,
        seed=0,
    )
    return Job(
        task="time",
        spec=spec,
        variant=plain(path.stem, "onnx"),
        model_path=str(path),
        inputs_path=str(inputs),
        others=(),
    )


def run(job: Job) -> tuple[float, bool]:
    result = run_cell(job).result
    if result.outcome is not Outcome.PASSED:
        raise SystemExit(f"{job.variant.id}: {result.reason}")
    return float(result.values["median_ms"]), bool(result.values["noisy"])


def run_trial(jobs: dict[str, Job], *, rounds: int, seed: int) -> Trial:
    medians: dict[str, dict[int, float]] = {name: {} for name in jobs}
    for number in range(rounds):
        order = list(jobs)
        random.Random(f"{seed}/{number}").shuffle(order)  # noqa: S311 - an order, not a secret
        for name in order:
            medians[name][number] = run(jobs[name])[0]
    same = ratio(medians["copy"], medians["first"], seed=seed)
    slower = ratio(medians["slowed"], medians["first"], seed=seed)
    assert same is not None
    assert slower is not None
    return Trial(
        seed=seed,
        same=bounds(same),
        slower=bounds(slower),
        is_tie=same.is_tie,
        is_found=bounds(slower)[1] > 1.0,
    )


def bounds(interval: Interval) -> tuple[float, float, float]:
    assert interval.low is not None, "an interval needs several rounds"
    assert interval.high is not None
    return interval.value, interval.low, interval.high


def run_beside_busy_loop(job: Job, *, times: int) -> Neighbour:
    cores = usable_cores(read_host())
    job = dataclasses.replace(job, spec=dataclasses.replace(job.spec, threads=cores))
    quiet = float(np.median([run(job)[0] for _ in range(3)]))
    loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        measured = [run(job) for _ in range(times)]
    finally:
        loop.kill()
        loop.wait()
    return Neighbour(quiet_ms=quiet, busy_ms=tuple(m for m, _ in measured), noisy=tuple(n for _, n in measured))


def main() -> None:
    parser = argparse.ArgumentParser(description="A/A trials and a planted slowdown.")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=12, help="as many as a leader has in the default budget")
    parser.add_argument("--min-s", type=float, default=0.4)
    parser.add_argument("--out", type=Path, default=HERE / "aa_trials.json")
    given = parser.parse_args()
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs = folder / "inputs.npy"
        np.save(inputs, np.random.default_rng(1).random((1, 3, 32, 32), dtype=np.float32))
        files = {"first": LAYERS, "copy": LAYERS, "slowed": LAYERS + 1}
        jobs = {
            key: make_job(write_network(folder / f"{key}.onnx", layers), inputs, threads=1, min_s=given.min_s)
            for key, layers in files.items()
        }
        trials = []
        for seed in range(given.trials):
            trials.append(run_trial(jobs, rounds=given.rounds, seed=seed))
            sys.stderr.write(json.dumps(dataclasses.asdict(trials[-1])) + "\n")
        after = os.getloadavg()[0]
        neighbour = run_beside_busy_loop(jobs["first"], times=10)
    right = [abs(ms / neighbour.quiet_ms - 1) <= 0.1 for ms in neighbour.busy_ms]
    figures = Figures(
        host=read_host(),
        load_before=before,
        load_after=after,
        rounds=given.rounds,
        ties=sum(t.is_tie for t in trials),
        found=sum(t.is_found for t in trials),
        noisy_or_right=sum(n or r for n, r in zip(neighbour.noisy, right, strict=True)),
        trials=tuple(trials),
        neighbour=neighbour,
    )
    write_record(given.out, figures)
    sys.stdout.write(
        f"A/A: {figures.ties} of {len(trials)} ties; 5 % slower: found in {figures.found} of {len(trials)}; "
        f"beside a busy loop: {figures.noisy_or_right} of {len(right)} NOISY or right; "
        f"load {before:.2f} before, {after:.2f} after\n"
    )


if __name__ == "__main__":
    main()
