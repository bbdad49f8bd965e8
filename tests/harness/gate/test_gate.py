"""Requirements held against records: each outcome by hand, and what CI reads of it."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from bench_records import LABELS, counted, make_source, make_variant, plan_of, run_of, runs_of, set_of
from markdown_page import NAMES, assert_only_text, parsed, plain, shape, shown

from exporters.bundle.manifest import Manifest
from exporters.bundle.open import bundle_sha256
from harness.bench.cells import Source
from harness.gate.config import GateConfig, read_config
from harness.gate.run import GateReport, exit_code, gate_bundle, read_baseline
from harness.host import read_host
from harness.records import BenchSet, Check, Comparison, Measurement, MeasurementSet, RunSpec
from harness.report.gate import junit, markdown
from harness.report.table import visible
from harness.verify.beyond.certainty import believe, certainty
from harness.verify.compare import compare
from udacisense.base.records import UNFITTED, Outcome, to_json, write_record
from udacisense.errors import InputError

N = 100
ROWS = {"torchscript-fp32": "torchscript", "ptl-int8": "lite", "coreml-fp32": "coreml"}


@pytest.fixture
def source(tmp_path: Path) -> Source:
    variants = (
        make_variant("torchscript-fp32", file_bytes=4_000_000),
        make_variant("ptl-int8", file_bytes=1_000_000),
        make_variant("coreml-fp32", file_bytes=4_000_000),
        make_variant("executorch-fp32", path=None, file_bytes=None, outcome=Outcome.SKIPPED, reason="not installed"),
    )
    made = make_source("small", *variants)
    folder = tmp_path / "bundle"
    write_record(folder / Manifest.FILE_NAME, made.manifest)
    sha256 = bundle_sha256(folder)
    return dataclasses.replace(made, bundle=dataclasses.replace(made.bundle, path=str(folder), sha256=sha256))


def comparison(right: int) -> Comparison:
    """A variant that is right on ``right`` of the images; the master is right on 80."""
    labels = np.zeros(N, dtype=np.int64)

    def answers(count: int) -> np.ndarray:
        logits = np.zeros((N, len(LABELS)), dtype=np.float32)
        logits[:count, 0] = 1
        logits[count:, 1] = 1
        return logits

    found = compare(
        answers(right), answers(right), answers(80), labels=labels, class_names=LABELS, rtol=1e-3, atol=1e-3
    )
    by = (believe(answers(count), "logits", UNFITTED) for count in (right, 80))
    sure = certainty(*by, labels, fitted=UNFITTED)
    return dataclasses.replace(found, certainty=sure)


def measurement(variant_id: str, *, right: int | None, outcome: Outcome, reason: str | None = None) -> Measurement:
    spec = RunSpec(
        variant_id=variant_id,
        runner=ROWS.get(variant_id, "executorch"),
        engine=None,
        threads=1,
        batch_size=1,
        warmup=0,
        min_samples=1,
        min_s=0.0,
        max_s=1.0,
        timeout_s=1.0,
        seed=0,
    )
    return Measurement(
        spec=spec,
        actual={},
        comparison=None if right is None else comparison(right),
        timing=None,
        warnings=(),
        outcome=outcome,
        reason=reason,
    )


def verified(source: Source, *, int8_right: int = 78, int8: Outcome = Outcome.PASSED) -> MeasurementSet:
    return MeasurementSet(
        schema_version=1,
        kind="verify",
        created_utc="2026-01-01T00:00:00+00:00",
        bundle=source.bundle.path,
        bundle_sha256=source.bundle.sha256,
        host=read_host(),
        inputs=f"shapes test, {N} images",
        seed=0,
        measurements=(
            measurement("torchscript-fp32", right=80, outcome=Outcome.PASSED),
            measurement(
                "ptl-int8", right=int8_right, outcome=int8, reason="it broke" if int8 is Outcome.FAILED else None
            ),
            measurement("coreml-fp32", right=None, outcome=Outcome.SKIPPED, reason="needs macOS"),
            measurement("executorch-fp32", right=None, outcome=Outcome.SKIPPED, reason="not exported: not installed"),
        ),
    )


def benched(source: Source, *, int8_ms: float = 5.0) -> BenchSet:
    plan = plan_of(source, threads=(1,), engines=("qnnpack",))
    times = {c.id: int8_ms if c.variant_id == "ptl-int8" else 10.0 for c in plan.runnable}
    return set_of(plan, runs_of(plan, times))


def gated(source: Source, text: str = "", **options: object) -> GateReport:
    record = options.pop("verification", None) or verified(source)
    return gate_bundle(
        Path(source.bundle.path),
        verification=record,
        config=GateConfig(text),
        **options,  # type: ignore[arg-type]
    )


def check(report: GateReport, variant_id: str, requirement: str) -> Check:
    (found,) = [e.check for e in report.checks if e.variant_id == variant_id and e.check.requirement == requirement]
    return found


LOST = "top-1 lost to the float32 master"
CONSISTENT = "consistent with its source"
SLOWER = "slower than in the baseline run"


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


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[accuracy", "no valid TOML"),
        ("[acuracy]\nx = 1", r"no section \[acuracy\]"),
        ("[accuracy]\nmax_drop = 1.0", "no key 'max_drop'"),
        ('[accuracy]\nmax_drop_points = "five"', r"accuracy\.max_drop_points: "),
        ("accuracy = 3", "accuracy is a section"),
        ("[[variant]]\nsize = {}", "needs a match"),
        ('[[variant]]\nmatch = "*"\nspeed = { max_ms = 1.0 }', "no key 'max_ms'"),
        ('[[variant]]\nmatch = "*"\nspeed = { max_median_ms = "x" }', "max_median_ms"),
        ('[consistency]\nrequired = "ptl"', r"consistency\.required"),
    ],
)
def test_a_faulty_requirements_file_is_refused_by_name(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "gate.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        read_config(path)
    assert str(path) in str(caught.value)


def test_a_missing_requirements_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.toml cannot be read: no such file or directory; give one"):
        read_config(tmp_path / "none.toml")
    with pytest.raises(InputError, match="cannot be read: is a directory; give one"):
        read_config(tmp_path)


def test_a_requirements_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "gate.toml").write_text("[accuracy]", encoding="utf-16")
    with pytest.raises(InputError, match=r"gate\.toml is no TOML: it is not in UTF-8"):
        read_config(tmp_path / "gate.toml")


def test_a_reference_that_is_not_there_is_refused(source: Source) -> None:
    with pytest.raises(InputError, match=r"size\.reference is 'x'"):
        gated(source, '[size]\nmin_reduction_percent = 1.0\nreference = "x"')


def test_junit_counts_what_failed_and_what_was_skipped(source: Source) -> None:
    record = verified(source, int8=Outcome.FAILED)
    broken = dataclasses.replace(record.measurements[1], reason='signal 11 \x00<"&>')
    record = dataclasses.replace(record, measurements=(record.measurements[0], broken, *record.measurements[2:]))
    root = ElementTree.fromstring(junit(gated(source, verification=record)))  # noqa: S314 - our own text
    suites = {suite.get("name"): suite for suite in root}
    assert set(suites) == {"torchscript-fp32", "ptl-int8", "coreml-fp32", "executorch-fp32"}
    (failure,) = suites["ptl-int8"].findall("testcase/failure")
    assert failure.get("message") == 'lite: signal 11 ⟨U+0000⟩<"&>'
    assert suites["ptl-int8"].get("failures") == "1"
    assert suites["coreml-fp32"].get("skipped") == "2"
    assert suites["torchscript-fp32"].findall("testcase/failure") == []


def test_markdown_shows_skipped_apart_from_passed(source: Source) -> None:
    text = markdown(gated(source, verification=verified(source, int8=Outcome.FAILED)))
    assert text.startswith("# Gate failed: ")
    failed, rest = text.split("## Skipped: not verified here")
    skipped, passed = rest.split("## Passed")
    assert "it broke" in failed
    assert "needs macOS" in skipped
    assert "coreml-fp32" not in passed


def named(report: GateReport, name: str) -> GateReport:
    """Return the report with another name of the bundle, the images, every variant, requirement and reason."""
    checks = tuple(
        dataclasses.replace(
            entry, variant_id=name, check=dataclasses.replace(entry.check, requirement=name, reason=name, unit="%")
        )
        for entry in report.checks
    )
    return dataclasses.replace(report, bundle=name, inputs=name, checks=checks)


@pytest.mark.parametrize("name", [*NAMES, "abc\u202egnp.exe\u200f"])
def test_a_hostile_name_is_no_markup_in_the_summary(source: Source, name: str) -> None:
    report = gated(source, verification=verified(source, int8=Outcome.FAILED))
    text = markdown(named(report, name))
    tokens = parsed(text)
    assert_only_text(tokens)
    assert not re.search("[\u200e\u200f\u202a-\u202e\u2066-\u2069]", text), "a direction mark got through"
    assert shape(tokens) == shape(parsed(markdown(named(report, "T"))))
    assert plain(shown(tokens)).count(plain(visible(name))) >= 2 + 3 * len(report.checks), "it is shown as it is"


def test_a_hostile_name_stays_within_its_attribute_of_junit(source: Source) -> None:
    name = '"><x> \x01\u202e\uffff&'
    root = ElementTree.fromstring(junit(named(gated(source), name)))  # noqa: S314 - our own text
    assert {element.tag for element in root.iter()} == {"testsuites", "testsuite", "testcase", "skipped", "system-out"}
    shown_as = '"><x> ⟨U+0001⟩⟨U+202E⟩&'
    assert root.get("name") == f"udacisense gate {shown_as}"
    assert {suite.get("name") for suite in root} == {shown_as}


def test_the_report_is_a_record(source: Source, tmp_path: Path) -> None:
    report = gated(source, bench=benched(source))
    path = tmp_path / GateReport.FILE_NAME
    write_record(path, report)
    assert path.read_text() == to_json(report)
