"""The report says what the records say, and hostile names stay text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench_records import make_source, make_variant, plan_of, runs_of, set_of
from report_records import stage

from harness.records import BenchSet
from harness.report.collect import collect
from harness.report.markdown import to_json_text, to_markdown
from udacisense.base.records import write_record
from udacisense.errors import InputError
from udacisense.pipeline.requirements import check_requirements
from udacisense.pipeline.run import RunRecord


def bench_set() -> BenchSet:
    plan = plan_of(make_source("baseline", make_variant("onnx-fp32")))
    times = {cell.id: 2.0 if "onnx" in cell.id else 8.0 for cell in plan.runnable}
    return set_of(plan, runs_of(plan, times))


def write_run(folder: Path, name: str, last: str = "graph") -> None:
    baseline = stage("baseline", file_bytes=6_000_000, latency_ms=10.0, top1=0.887, labels=("a",))
    final = stage(last, file_bytes=3_000_000, latency_ms=6.0, top1=0.880, labels=("a",))
    write_record(
        folder / RunRecord.FILE_NAME,
        RunRecord(
            schema_version=1,
            name=name,
            fingerprint="f",
            baseline=baseline,
            stages=(final,),
            requirements=check_requirements(baseline, final),
        ),
    )


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    write_run(tmp_path / "p1", "p1", "gra|ph <script>alert(1)</script>")
    write_record(tmp_path / "p1" / "bundle.bench.json", bench_set())
    return tmp_path


def row_of(text: str, start: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {start}"))
    return [cell.strip() for cell in line.replace("\\|", "¦").strip("|").split("|")]


def test_stage_and_requirement_rows_carry_the_changes(run_folder: Path) -> None:
    text = to_markdown(collect([run_folder]), title="T")
    cells = row_of(text, "gra")
    assert cells[1:4] == ["3.000 MB", "-50.0 %", "1,000"]
    assert cells[4:8] == ["6.00 ms", "-40.0 %", "88.0 %", "-0.7"]
    assert row_of(text, "latency reduction")[1:3] == ["40.0 %", "at least 50 %"]
    assert row_of(text, "latency reduction")[-1] == "failed"
    assert row_of(text, "file size reduction")[-1] == "passed"


@pytest.mark.parametrize("kept", ["p2", "aggressive_speed_optimization"])
def test_a_pipelines_full_name_stands_beside_its_short_one_once(tmp_path: Path, kept: str) -> None:
    write_run(tmp_path / "runs", kept)
    text = to_markdown(collect([tmp_path]), title="T")
    assert text.count("### p2 (aggressive_speed_optimization) in ") == 1
    assert text.count("aggressive_speed_optimization") == 1
    assert "p2: requirements" in text


def test_a_shipped_model_keeps_its_own_name_with_its_pipeline_beside_it(tmp_path: Path) -> None:
    write_run(tmp_path, "tiny")
    text = to_markdown(collect([tmp_path]), title="T")
    assert "### tiny (p2, aggressive_speed_optimization) in " in text
    assert "tiny: requirements" in text


def test_latency_rows_carry_the_ratio_to_the_eager_baseline(run_folder: Path) -> None:
    text = to_markdown(collect([run_folder]), title="T")
    cells = row_of(text, "baseline/onnx-fp32 t1")
    assert cells[7].startswith("4.00×")
    rows = json.loads(to_json_text(collect([run_folder]), title="T"))["latencies"][0]["rows"]
    fastest = next(row for row in rows if row["median_ms"] is not None)
    assert fastest["cell"].startswith("baseline/onnx-fp32")
    assert fastest["speedup"]["value"] == pytest.approx(4.0, rel=1e-6)


def test_a_hostile_name_stays_text_in_its_cell(run_folder: Path) -> None:
    text = to_markdown(collect([run_folder]), title="<b>")
    assert "<script>" not in text
    assert "<b>" not in text
    assert len(row_of(text, "gra")) == len(row_of(text, "stage"))


def test_a_copy_inside_a_bundle_is_not_reported_twice(run_folder: Path) -> None:
    for folder, beside in (("p1/steps/01-x", "step.json"), ("p1/bundle/reference", "../manifest.json")):
        kept = run_folder / folder / RunRecord.FILE_NAME
        kept.parent.mkdir(parents=True)
        kept.write_text((run_folder / "p1" / RunRecord.FILE_NAME).read_text())
        write_record(kept.parent / beside, make_source("baseline").manifest)
    assert len(collect([run_folder]).runs) == 1


@pytest.mark.parametrize("name", ["reference", "steps"])
def test_a_run_of_any_name_is_reported(run_folder: Path, name: str) -> None:
    (run_folder / "p1").rename(run_folder / name)
    found = collect([run_folder])
    assert (len(found.runs), len(found.benches)) == (1, 1)


def test_a_damaged_record_is_named(run_folder: Path) -> None:
    (run_folder / "p1" / RunRecord.FILE_NAME).write_text("{")
    with pytest.raises(InputError, match=r"p1/result\.json is not a valid RunRecord"):
        collect([run_folder])


def test_nothing_found_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No record was found"):
        collect([tmp_path])
