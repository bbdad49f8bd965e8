"""Requirements held against records: each outcome by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from bench_records import counted, plan_of, run_of, runs_of, set_of
from gate_records import CONSISTENT, LOST, SLOWER, benched, check, gated, gated_source, verified

from harness.bench.cells import Source
from harness.gate.run import GateReport, exit_code, read_baseline
from udacisense.base.records import Outcome, to_json, write_record
from udacisense.errors import InputError


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return gated_source(tmp_path / "bundle")


def test_confidence_is_held_where_limits_are_given(source: Source) -> None:
    text = "[confidence]\nmax_moved = 0.002\nmax_calibration_error = 0.5\nmin_answered_top1_fraction = 0.79\n"
    report = gated(source, text)
    moved = check(report, "ptl-int8", "confidence moved from the float32 master's")
    assert moved.outcome is Outcome.FAILED
    assert moved.measured is not None
    assert moved.measured > 0.002
    assert check(report, "torchscript-fp32", "confidence moved from the float32 master's").outcome is Outcome.PASSED
    assert check(report, "ptl-int8", "expected calibration error").outcome is Outcome.FAILED  # 78 right, 15 % sure
    assert check(report, "ptl-int8", "top-1 of the answered").outcome is Outcome.FAILED
    text += "max_unknown_taken_fraction = 0.5\n[shift]\nmax_lost_points = 1.0\n"
    report = gated(source, text)
    assert check(report, "ptl-int8", "other things taken for a class").reason == (
        "no photos of other things were fed; give verify --unknown"
    )
    assert check(report, "ptl-int8", "top-1 lost to the float32 master under shift").outcome is Outcome.SKIPPED
    assert check(report, "coreml-fp32", "top-1 of the answered").outcome is Outcome.SKIPPED
    assert "expected calibration error" not in {entry.check.requirement for entry in gated(source).checks}


def test_the_defaults_hold_accuracy_and_consistency(source: Source) -> None:
    report = gated(source)
    assert exit_code(report) == 0
    found = check(report, "ptl-int8", LOST)
    assert (found.measured, found.limit, found.outcome) == (pytest.approx(2.0), 5.0, Outcome.PASSED)
    assert check(report, "coreml-fp32", CONSISTENT).outcome is Outcome.SKIPPED
    assert check(report, "coreml-fp32", CONSISTENT).reason == "coreml: needs macOS"
    assert check(report, "coreml-fp32", LOST).outcome is Outcome.SKIPPED
    assert check(report, "executorch-fp32", CONSISTENT).outcome is Outcome.SKIPPED


@pytest.mark.parametrize(("right", "outcome"), [(75, "passed"), (74, "failed"), (99, "passed")])
def test_a_drop_on_its_limit_passes_and_a_gain_never_fails(source: Source, right: int, outcome: str) -> None:
    report = gated(source, verification=verified(source, int8_right=right))
    assert check(report, "ptl-int8", LOST).outcome == outcome
    assert exit_code(report) == (outcome == "failed")


def test_a_failed_cell_fails_the_gate(source: Source) -> None:
    report = gated(source, verification=verified(source, int8=Outcome.FAILED))
    assert check(report, "ptl-int8", CONSISTENT).reason == "lite: it broke"
    assert exit_code(report) == 1


def test_required_variants_must_pass_here(source: Source) -> None:
    report = gated(source, '[consistency]\nrequired = ["coreml-*"]')
    found = check(report, "coreml-fp32", CONSISTENT)
    assert found.outcome is Outcome.FAILED
    assert "needs macOS" in (found.reason or "")
    assert exit_code(report) == 1


def test_nothing_verified_is_no_pass(source: Source) -> None:
    record = verified(source)
    skipped = tuple(m for m in record.measurements if m.outcome is Outcome.SKIPPED)
    report = gated(source, verification=dataclasses.replace(record, measurements=skipped))
    size_only = [e for e in report.checks if e.check.outcome is Outcome.PASSED]
    assert size_only == []
    assert exit_code(report) == 1


def test_size_and_speed_limits(source: Source) -> None:
    text = """
    [size]
    max_bytes = 3_000_000
    min_reduction_percent = 75.0
    reference = "torchscript-fp32"
    [speed]
    max_median_ms = 8.0
    [[variant]]
    match = "*-fp32"
    size = { max_bytes = 5_000_000, min_reduction_percent = 0.0 }
    speed = { max_median_ms = 50.0 }
    """
    report = gated(source, text, bench=benched(source))
    assert check(report, "ptl-int8", "file size").outcome is Outcome.PASSED
    assert check(report, "ptl-int8", "smaller than torchscript-fp32").measured == pytest.approx(75.0)
    assert check(report, "ptl-int8", "median time").outcome is Outcome.PASSED
    assert check(report, "torchscript-fp32", "median time").outcome is Outcome.PASSED
    assert check(report, "coreml-fp32", "median time").outcome is Outcome.SKIPPED
    assert exit_code(report) == 0
    slow = gated(source, text, bench=benched(source, int8_ms=9.0))
    assert check(slow, "ptl-int8", "median time").outcome is Outcome.FAILED


def test_arm_instructions_have_a_limit(source: Source) -> None:
    text = "[speed]\nmax_arm_instructions = 4_000_000"
    assert check(gated(source, text, bench=benched(source)), "ptl-int8", "ARM instructions").outcome is Outcome.SKIPPED
    for count, outcome in ((3e6, Outcome.PASSED), (5e6, Outcome.FAILED)):
        bench = dataclasses.replace(benched(source), instructions=(counted(source.bundle.name, "ptl-int8", count),))
        found = check(gated(source, text, bench=bench), "ptl-int8", "ARM instructions")
        assert (found.measured, found.outcome) == (count, outcome)


def test_regressions_between_two_runs(source: Source, tmp_path: Path) -> None:
    old = tmp_path / "old.json"
    write_record(old, gated(source, bench=benched(source)))
    baseline = read_baseline(old)
    same = gated(source, bench=benched(source), baseline=baseline)
    assert exit_code(same) == 0
    worse = gated(
        source,
        verification=verified(source, int8_right=76),
        bench=benched(source, int8_ms=10.0),
        baseline=baseline,
    )
    lost = "top-1 lost to the baseline run"
    assert check(worse, "ptl-int8", lost).measured == pytest.approx(2.0)
    assert check(worse, "ptl-int8", lost).outcome is Outcome.FAILED
    assert check(worse, "ptl-int8", SLOWER).measured == pytest.approx(100.0)
    assert check(worse, "ptl-int8", SLOWER).outcome is Outcome.FAILED
    assert check(worse, "torchscript-fp32", SLOWER).outcome is Outcome.PASSED
    better = gated(
        source, verification=verified(source, int8_right=79), bench=benched(source, int8_ms=4.0), baseline=baseline
    )
    assert exit_code(better) == 0


def test_a_slowdown_within_its_interval_is_left_open_and_says_so(source: Source, tmp_path: Path) -> None:
    write_record(tmp_path / "old.json", gated(source, bench=benched(source)))
    baseline = read_baseline(tmp_path / "old.json")
    found = check(gated(source, bench=benched(source, int8_ms=6.0), baseline=baseline), "ptl-int8", SLOWER)
    assert found.measured == pytest.approx(20.0)
    assert found.outcome is Outcome.SKIPPED, "rounds that differ by a fifth do not show 20 %"
    assert "interval" in (found.reason or "")
    once = benched(source, int8_ms=60.0)
    once = dataclasses.replace(once, runs=tuple(run for run in once.runs if run.round <= 1))
    found = check(gated(source, bench=once, baseline=baseline), "ptl-int8", SLOWER)
    assert (found.measured, found.outcome) == (None, Outcome.SKIPPED)
    assert "no interval" in (found.reason or "")


def test_a_baseline_without_rounds_judges_no_time(source: Source, tmp_path: Path) -> None:
    old = gated(source, bench=benched(source))
    figures = tuple(dataclasses.replace(f, medians_ms=()) for f in old.figures)
    write_record(tmp_path / "old.json", dataclasses.replace(old, figures=figures))
    report = gated(source, bench=benched(source, int8_ms=60.0), baseline=read_baseline(tmp_path / "old.json"))
    found = check(report, "ptl-int8", SLOWER)
    assert (found.outcome, found.reason) == (Outcome.SKIPPED, "the baseline keeps no rounds")


@pytest.mark.parametrize(
    ("runner", "phase", "why"),
    [
        ("android-x86_64", "report", "timed on an Android emulator on a PC"),
        ("lite", "tune", "timed in the tuning rounds alone"),
        ("lite", None, "failed in a round: signal 11 (SIGSEGV)"),
    ],
)
def test_a_time_that_may_not_ship_meets_no_limit(source: Source, runner: str, phase: str | None, why: str) -> None:
    plan = plan_of(source, threads=(1,), unavailable={})
    (cell,) = [c for c in plan.runnable if (c.variant_id, c.runner) == ("ptl-int8", runner)]
    times = {c.id: 10.0 for c in plan.runnable if c.variant_id != "ptl-int8"}
    runs = [*runs_of(plan, times), *(run_of(cell, n, 1.0, phase="tune" if n == 0 else "report") for n in range(7))]
    if phase == "tune":
        runs = [run for run in runs if run.cell_id != cell.id or run.phase == "tune"]
    if phase is None:
        runs.append(run_of(cell, 7, None))
    report = gated(source, "[speed]\nmax_median_ms = 5.0", bench=set_of(plan, runs))
    found = check(report, "ptl-int8", "median time")
    assert (found.measured, found.outcome) == (None, Outcome.SKIPPED)
    assert why in (found.reason or "")
    assert {f.variant_id: f.median_ms for f in report.figures}["ptl-int8"] is None


def test_baselines_of_verify_and_bench_are_read_too(source: Source, tmp_path: Path) -> None:
    write_record(tmp_path / "verify.json", verified(source))
    write_record(tmp_path / "bench.json", benched(source))
    assert read_baseline(tmp_path / "verify.json").figures["ptl-int8"].top1_fraction == pytest.approx(0.78)
    assert read_baseline(tmp_path / "bench.json").figures["ptl-int8"].file_bytes == 1_000_000
    (tmp_path / "other.json").write_text('{"kind": "cake"}')
    with pytest.raises(InputError, match="no record of gate, verify or bench"):
        read_baseline(tmp_path / "other.json")


def test_accuracies_on_other_images_are_not_compared(source: Source, tmp_path: Path) -> None:
    old = gated(source)
    figures = tuple(dataclasses.replace(f, n_images=32 if f.n_images else None) for f in old.figures)
    write_record(tmp_path / "old.json", dataclasses.replace(old, figures=figures))
    report = gated(source, baseline=read_baseline(tmp_path / "old.json"))
    found = check(report, "ptl-int8", "top-1 lost to the baseline run")
    assert found.outcome is Outcome.SKIPPED
    assert "100 images, and in the baseline run on 32" in (found.reason or "")


def test_times_of_unlike_hosts_are_refused(source: Source, tmp_path: Path) -> None:
    old = gated(source, bench=benched(source))
    assert old.host is not None
    host = dataclasses.replace(old.host, cpu="another", physical_cores=64)
    write_record(tmp_path / "old.json", dataclasses.replace(old, host=host))
    with pytest.raises(InputError, match="unlike hosts"):
        gated(source, bench=benched(source), baseline=read_baseline(tmp_path / "old.json"))


def test_records_of_another_bundle_are_refused(source: Source) -> None:
    with pytest.raises(InputError, match="verification is of another bundle"):
        gated(source, verification=dataclasses.replace(verified(source), bundle_sha256="1" * 64))
    other = dataclasses.replace(source, bundle=dataclasses.replace(source.bundle, sha256="1" * 64))
    with pytest.raises(InputError, match="no figures of"):
        gated(source, bench=benched(other))


def test_a_reference_that_is_not_there_is_refused(source: Source) -> None:
    with pytest.raises(InputError, match=r"size\.reference is 'x'"):
        gated(source, '[size]\nmin_reduction_percent = 1.0\nreference = "x"')


def test_the_report_is_a_record(source: Source, tmp_path: Path) -> None:
    report = gated(source, bench=benched(source))
    path = tmp_path / GateReport.FILE_NAME
    write_record(path, report)
    assert path.read_text() == to_json(report)
