"""Whole sweeps of real bundles: small budgets, real processes."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from exporters.bundle.open import bundle_sha256
from harness.bench import run as bench
from harness.bench.advice import recommend, recommendations
from harness.bench.cells import SweepOptions
from harness.bench.ranking import rank
from harness.bench.rounds import Plan
from harness.bench.run import plan_sweep, run_sweep
from harness.records import BenchSet, Budget
from udacisense.base.records import Artifact, Outcome, read_json
from udacisense.errors import InputError
from udacisense.zoo.table import resolve_artifact

pytestmark = pytest.mark.slow

BRIEF = Budget(
    name="brief",
    tune_rounds=1,
    report_rounds=0,
    final_rounds=2,
    memory="leaders",
    warmup=10,
    min_samples=5,
    min_s=0.02,
    max_s=0.2,
    timeout_s=60,
)


ON_ONE_THREAD = SweepOptions(threads=[1], variants=["ptl-fp32", "onnx-fp32"])


def brief(plan: Plan) -> Plan:
    return dataclasses.replace(plan, budget=BRIEF)


@dataclasses.dataclass(frozen=True)
class Swept:
    plan: Plan
    kept: BenchSet  # when Ctrl-C came, after three processes
    measured: BenchSet  # after going on from there
    out: Path


@pytest.fixture(scope="module")
def swept(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    plan = brief(plan_sweep([small_bundle], ON_ONE_THREAD))
    out = tmp_path_factory.mktemp("out") / "measurements.json"
    seen = 0

    def stop(steps: float = 1, *, note: str = "") -> None:
        nonlocal seen
        seen += 1
        if seen == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweep(plan, out=out, on_progress=stop)
    kept = read_json(BenchSet, out)
    return Swept(plan, kept, run_sweep(plan, out=out, resume=True), out)


def test_a_sweep_gives_every_variant_its_figures(swept: Swept) -> None:
    measured = swept.measured
    rows = {row.cell.id: row for row in rank(measured)}
    for name in ("small/ptl-fp32 t1", "small/onnx-fp32 t1"):
        row = rows[name]
        assert row.outcome is Outcome.PASSED, row.reason
        assert row.processes == 2
        assert row.spread_fraction is not None
        assert row.median_ms is not None
        assert row.floor_ms is not None
        assert row.floor_ms < row.median_ms
        assert row.speedup is not None
        assert row.speedup.pairs == 2
        assert row.peak_rss_bytes is not None
        assert row.limit_fraction is not None
        assert row.limit_fraction > 0
        assert row.warnings == (), "the first answers are those of the golden pack"
    assert rows["small/eager t1"].speedup is not None
    assert rows["small/eager t1"].speedup.value == 1.0
    assert [r.bundle for r in measured.recommended] == ["small"]
    assert measured.complete


def test_every_cell_and_round_is_a_process_of_its_own_with_raw_samples(swept: Swept) -> None:
    measured = swept.measured
    timed = [run for run in measured.runs if run.phase != "memory"]
    assert len({(run.cell_id, run.round) for run in timed}) == len(timed)
    for run in timed:
        assert run.timing is not None, run.reason
        assert len(run.timing.samples_ms) >= 1
        assert run.actual["threads"] == 1
        assert run.duration_s > 0
    memory = [run for run in measured.runs if run.phase == "memory"]
    assert all(run.timing is None and run.peak_rss_bytes for run in memory)


def test_the_file_is_what_was_returned(swept: Swept) -> None:
    measured, out = swept.measured, swept.out
    assert read_json(BenchSet, out) == measured


def test_an_interrupted_sweep_keeps_what_it_measured_and_goes_on(swept: Swept) -> None:
    assert len(swept.kept.runs) == 3
    assert not swept.kept.complete
    assert swept.kept.recommended == ()
    assert swept.measured.complete
    assert swept.measured.runs[:3] == swept.kept.runs, "what was measured is not measured again"
    assert swept.measured.created_utc == swept.kept.created_utc


def test_an_interrupted_sweep_is_not_overwritten_unasked(swept: Swept, tmp_path: Path) -> None:
    out = tmp_path / "measurements.json"
    bench.write_record(out, swept.kept)
    before = out.read_bytes()
    with pytest.raises(InputError, match=r"holds 3 runs of this very sweep, which was interrupted: .*--resume"):
        run_sweep(swept.plan, out=out)
    assert out.read_bytes() == before


def test_resuming_something_else_says_what_differs(swept: Swept, tmp_path: Path) -> None:
    plan, measured = swept.plan, swept.measured
    out = tmp_path / "measurements.json"
    bench.write_record(out, measured)
    with pytest.raises(InputError, match="seed: 1 against 0"):
        run_sweep(dataclasses.replace(plan, seed=1), out=out, resume=True)
    with pytest.raises(InputError, match="the cells"):
        run_sweep(dataclasses.replace(plan, cells=plan.cells[:1]), out=out, resume=True)
    bench.write_record(out, dataclasses.replace(measured, host=dataclasses.replace(measured.host, cpu="another")))
    with pytest.raises(InputError, match="cpu: another"):
        run_sweep(plan, out=out, resume=True)
    bench.write_record(out, dataclasses.replace(measured, host=dataclasses.replace(measured.host, libraries={})))
    with pytest.raises(InputError, match="torch absent against"):
        run_sweep(plan, out=out, resume=True)
    with pytest.raises(InputError, match="cannot be read"):
        run_sweep(plan, out=tmp_path / "absent.json", resume=True)


def test_a_changed_bundle_is_not_resumed(small_bundle: Path, swept: Swept, tmp_path: Path) -> None:
    measured = swept.measured
    copy = tmp_path / "small"
    shutil.copytree(small_bundle, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["created_utc"] = "2020-01-01T00:00:00+00:00"
    (copy / "manifest.json").write_text(json.dumps(manifest))
    out = tmp_path / "measurements.json"
    bench.write_record(out, measured)
    plan = brief(plan_sweep([copy], ON_ONE_THREAD))
    with pytest.raises(InputError, match="the bundles or their manifests"):
        run_sweep(plan, out=out, resume=True)


@pytest.fixture(scope="module")
def damaged(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> BenchSet:
    """A bundle whose .ptl is cut short and whose golden pack is another model's."""
    folder = tmp_path_factory.mktemp("damaged")
    copy = folder / "small"
    shutil.copytree(small_bundle, copy)
    broken = copy / "model-ptl-fp32.ptl"
    broken.write_bytes(broken.read_bytes()[:1000])
    logits = copy / "golden" / "logits.f32"
    other = np.roll(np.fromfile(logits, dtype="<f4").reshape(-1, 10), 1, axis=1)
    other.tofile(logits)
    manifest = json.loads((copy / "manifest.json").read_text())
    for image, row in zip(manifest["golden"]["images"], other, strict=True):
        image["predicted"] = int(row.argmax())
    (copy / "manifest.json").write_text(json.dumps(manifest))
    plan = plan_sweep([copy], ON_ONE_THREAD)
    plan = dataclasses.replace(plan, budget=dataclasses.replace(BRIEF, final_rounds=1))
    return run_sweep(plan, out=folder / "m.json")


def test_a_file_that_would_not_load_fails_its_cell_and_no_other(damaged: BenchSet) -> None:
    rows = {row.cell.id: row for row in rank(damaged)}
    assert rows["small/ptl-fp32 t1"].outcome is Outcome.FAILED
    assert "would not load" in str(rows["small/ptl-fp32 t1"].reason)
    assert rows["small/onnx-fp32 t1"].outcome is Outcome.PASSED


def test_a_fast_file_with_wrong_answers_is_told_and_not_recommended(damaged: BenchSet) -> None:
    row = next(row for row in rank(damaged) if row.cell.id == "small/onnx-fp32 t1")
    assert row.warnings == ("1 of 1 answers differ from the golden pack's: verify the bundle",)
    told = recommend(damaged)
    assert "no file can be recommended: `onnx-fp32` (its answers are not the golden pack's); `ptl-fp32` (" in told
    assert recommendations(damaged, rank(damaged)) == ()
    assert damaged.recommended == ()


def test_the_plan_says_what_it_will_take_and_what_it_leaves_out(small_bundle: Path) -> None:
    plan = plan_sweep([small_bundle], SweepOptions(budget="quick"))
    assert 10 < plan.expected_s < 120
    assert {cell.engine for cell in plan.runnable if "int8" in cell.precision and cell.format == "ptl"} == {"qnnpack"}
    (bundle,) = plan.bundles
    assert bundle.sha256 == bundle_sha256(small_bundle)
    assert bundle.parameters > 30_000
    assert bundle.flops > 100_000


def test_a_bundle_given_twice_is_refused(small_bundle: Path) -> None:
    with pytest.raises(InputError, match="given twice"):
        plan_sweep([small_bundle, small_bundle])


def test_two_bundles_of_one_name_are_told_apart_by_their_folders(small_bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "newer"
    shutil.copytree(small_bundle, copy)
    names = [bundle.name for bundle in plan_sweep([small_bundle, copy]).bundles]
    assert names == ["small(small)", "small(newer)"]


def test_a_float_file_has_the_accuracy_of_the_float_weights_and_not_of_the_int8_stage() -> None:
    artifact = read_json(Artifact, resolve_artifact(Path("p1")) / Artifact.FILE_NAME)
    by_stage = {stage.stage: stage.top1_fraction for stage in artifact.stages}
    assert bench._master_top1(artifact) == by_stage["distill"] != by_stage["static-int8"]
    unknown = dataclasses.replace(artifact.stages[0], stage="their own")
    assert bench._master_top1(dataclasses.replace(artifact, stages=(unknown,))) is None
    assert bench._master_top1(dataclasses.replace(artifact, stages=())) == artifact.baseline.top1_fraction


def test_no_bundle_at_a_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        plan_sweep([tmp_path / "absent"])
