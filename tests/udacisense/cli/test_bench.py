"""`udacisense bench` as a user meets it: interrupted, resumed, compared, and what it recommends after verification."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bench_records import measurement_of

from harness.bench import run as bench
from harness.bench.cells import BUDGETS
from harness.bench.compare_runs import SetComparison
from harness.records import BenchSet, MeasurementSet
from udacisense.base.records import Outcome, from_json, read_json, write_record
from udacisense.cli.main import run
from udacisense.errors import Interrupted

OPTIONS = ["--quick", "--threads", "1", "--variant", "ptl-fp32", "--variant", "onnx-fp32"]
PTL, ONNX = "staged/ptl-fp32 t1", "staged/onnx-fp32 t1"


@dataclasses.dataclass(frozen=True)
class Swept:
    bundle: Path
    record: Path
    measured: BenchSet

    def again(self, *options: str) -> list[str]:
        """The same command on the whole record: nothing is left to run, and all is told again."""
        return ["bench", str(self.bundle), *OPTIONS, "-o", str(self.record), "--resume", *options]


@pytest.fixture(scope="module")
def brief() -> Iterator[None]:
    """--quick is quicker still: a few short processes."""
    budget = dataclasses.replace(BUDGETS["quick"], tune_rounds=1, report_rounds=0, final_rounds=1, max_s=0.2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BUDGETS, "quick", dataclasses.replace(budget, min_s=0.02, min_samples=5, warmup=5))
        yield


@pytest.fixture(scope="module")
def original(brief: None, stage: Callable[..., Path]) -> Swept:
    bundle = stage("ptl", "onnx")
    record = bundle.parent / "sweep.json"
    assert run(["--quiet", "bench", str(bundle), *OPTIONS, "-o", str(record)]) == 0
    return Swept(bundle, record, read_json(BenchSet, record))


@pytest.fixture
def swept(original: Swept, tmp_path: Path) -> Swept:
    """A whole sweep of a bundle that nobody verified."""
    bundle = shutil.copytree(original.bundle, tmp_path / "bundle")
    return Swept(bundle, shutil.copy(original.record, tmp_path / "sweep.json"), original.measured)


def without(measured: BenchSet, cell_id: str) -> BenchSet:
    return dataclasses.replace(measured, runs=tuple(r for r in measured.runs if r.cell_id != cell_id))


def cut_short(swept: Swept) -> BenchSet:
    kept = dataclasses.replace(swept.measured, runs=swept.measured.runs[:2], recommended=(), complete=False)
    write_record(swept.record, kept)
    return kept


def interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    def ctrl_c(*_: object) -> None:
        raise Interrupted

    monkeypatch.setattr(bench, "_run_step", ctrl_c)
    monkeypatch.setattr(bench, "measure_ceilings", lambda _: ())


def verification(swept: Swept, outcomes: dict[str, Outcome]) -> MeasurementSet:
    cells = {cell.variant_id: cell for cell in swept.measured.cells}
    budget, blank = swept.measured.budget, dataclasses.replace(swept.measured.runs[0], timing=None, warnings=())
    return MeasurementSet(
        schema_version=1,
        kind="verify",
        created_utc="2026-01-01T00:00:00+00:00",
        bundle=str(swept.bundle),
        bundle_sha256=swept.measured.bundles[0].sha256,
        host=swept.measured.host,
        inputs="invented",
        seed=0,
        measurements=tuple(
            measurement_of(cells[name], dataclasses.replace(blank, outcome=outcome), budget)
            for name, outcome in outcomes.items()
        ),
    )


def test_ctrl_c_says_what_is_kept_and_how_to_go_on(
    swept: Swept, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = cut_short(swept)
    interrupt(monkeypatch)
    assert run(swept.again()) == 130
    told = capsys.readouterr().err
    assert f"2 runs are kept in {swept.record}; the same command with --resume goes on." in told.splitlines()
    assert told.endswith("interrupted\n")
    assert read_json(BenchSet, swept.record).runs == kept.runs


def test_an_unfinished_sweep_is_not_overwritten_unasked(
    swept: Swept, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cut_short(swept)
    before = swept.record.read_bytes()
    line = [word for word in swept.again() if word != "--resume"]
    interrupt(monkeypatch)  # so that a defect does not run a sweep here
    assert run(line) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith(f"error: {swept.record} holds 2 runs of this very sweep")
    assert "--resume" in told
    assert "-o" in told
    assert swept.record.read_bytes() == before
    assert run([*line, "--seed", "1"]) == 130, "another plan's record is replaced, as ever"
    assert "Nothing was measured yet." in capsys.readouterr().err
    assert run(line) == 130, "a record without runs is no loss"


def test_a_file_that_failed_verification_is_not_recommended(swept: Swept, capsys: pytest.CaptureFixture[str]) -> None:
    beside = swept.bundle.with_name("bundle.verify.json")
    for wrong, right in (("ptl-fp32", "onnx-fp32"), ("onnx-fp32", "ptl-fp32")):
        write_record(beside, verification(swept, {wrong: Outcome.FAILED, right: Outcome.PASSED}))
        assert run(swept.again()) == 0
        told = capsys.readouterr().out
        assert f"- staged: `{right}` on " in told
        assert "not verified" not in told
        (chosen,) = read_json(BenchSet, swept.record).recommended
        assert chosen.cell_id == f"staged/{right} t1"


def test_where_every_file_failed_verification_the_record_names_none(
    swept: Swept, capsys: pytest.CaptureFixture[str]
) -> None:
    record = swept.bundle.with_name("elsewhere.json")
    write_record(record, verification(swept, dict.fromkeys(("ptl-fp32", "onnx-fp32"), Outcome.FAILED)))
    assert run(swept.again("--verification", str(record))) == 0
    assert "staged: no file can be recommended" in capsys.readouterr().out
    assert read_json(BenchSet, swept.record).recommended == ()


def test_what_was_not_verified_is_told(swept: Swept, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(swept.again()) == 0
    assert "; not verified, so run `udacisense verify`" in capsys.readouterr().out


def test_the_floor_and_the_roofline_stand_in_columns(swept: Swept, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(swept.again("--format", "csv")) == 0
    rows = {row["cell"]: row for row in csv.DictReader(capsys.readouterr().out.splitlines())}
    assert rows[ONNX]["overhead floor"].endswith(" ms")
    assert rows[ONNX]["of the roofline"].endswith(" %")
    assert run(swept.again()) == 0
    first, second = capsys.readouterr().out.split("Limits (")
    assert "roofline" not in first, "the table of times stays as narrow as it was"
    assert rows[ONNX]["overhead floor"] in second
    assert max(map(len, second.split("note:")[0].splitlines())) <= 100


def test_comparison_takes_every_format_and_tells_what_is_in_one_alone(
    original: Swept, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    write_record(before, without(original.measured, PTL))
    write_record(after, without(original.measured, ONNX))
    line = ["bench", "--compare", str(before), str(after)]
    assert run([*line, "--format", "json"]) == 0
    made = from_json(SetComparison, capsys.readouterr().out, source="the answer")
    assert (made.only_before, made.only_after) == ((ONNX,), (PTL,))
    assert json.loads(run_for(capsys, [*line, "--format", "json"]))["changes"][0]["verdict"] == "tie"

    rows = {row["cell"]: row for row in csv.DictReader(run_for(capsys, [*line, "--format", "csv"]).splitlines())}
    assert (rows[ONNX]["verdict"], rows[PTL]["verdict"]) == ("only before", "only after")
    assert rows["staged/eager t1"]["verdict"] == "tie"
    assert f"| {ONNX} |" in run_for(capsys, [*line, "--format", "markdown"])
    for words in ("Change (after / before)", ONNX, "only before", PTL, "only after"):
        assert words in run_for(capsys, line)


def run_for(capsys: pytest.CaptureFixture[str], line: list[str]) -> str:
    """Run a command that must succeed; return what it printed."""
    assert run(line) == 0
    return capsys.readouterr().out
