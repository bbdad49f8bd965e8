"""What the app itself wrote, in its own tests with the phone's own library, taken home as from a phone.

``make android-test`` leaves these results in ``android_demo/build/`` and runs this file; without them it is skipped.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from scripted_phone import ScriptedPhone

from exporters.bundle.open import open_bundle
from harness.device.contract import FORMATS
from harness.device.results import read_result, to_bench_set
from harness.records import BenchSet, MeasurementSet
from udacisense.base.records import Outcome, read_json, write_record
from udacisense.cli.main import run
from udacisense.measure.stats import summarise

FIXTURES = Path(__file__).resolve().parents[3] / "android_demo" / "build" / "fixtures"
BENCHES = ("b1", "b2", "screen-bench")  # two orders, and one by hand in the app
TINY, P1 = FIXTURES / "bundles" / "tiny", FIXTURES / "bundles" / "p1"
RESULTS = {"s1": P1, "screen-verify": TINY, "use": FIXTURES / "bundles" / "cascade", **dict.fromkeys(BENCHES, TINY)}

Told = pytest.CaptureFixture[str]


@pytest.fixture
def results() -> Path:
    missing = [name for name in RESULTS if not (FIXTURES / "results" / f"{name}.json").is_file()]
    if missing:
        pytest.skip(f"the app's own {', '.join(missing)} are not there; 'make android-test' writes them")
    return FIXTURES / "results"


@pytest.mark.parametrize(("name", "bundle"), RESULTS.items())
def test_the_harness_reads_every_row(results: Path, name: str, bundle: Path) -> None:
    opened = open_bundle(bundle)
    made = read_result((results / f"{name}.json").read_bytes(), opened, source=name)
    assert made.kind == ("use" if name == "use" else "bench" if name in BENCHES else "verify")
    ids = {row.spec.variant_id for row in made.measurements}
    if name not in ("b1", "b2", "use"):
        assert ids == {v.id for v in opened.exported() if v.format in FORMATS}
    for row in made.measurements:
        if row.timing is not None:
            of_samples = summarise(row.timing.samples_ms)
            assert (row.timing.median_ms, row.timing.p90_ms) == pytest.approx((of_samples.median_ms, of_samples.p90_ms))


def test_it_goes_into_report_gate_and_comparison(results: Path, tmp_path: Path, capsys: Told) -> None:
    bundle = open_bundle(TINY)
    for name in BENCHES:
        made = read_result((results / f"{name}.json").read_bytes(), bundle, source=name)
        write_record(tmp_path / f"tiny.{name}.bench.json", to_bench_set(made, bundle))
    shutil.copy(results / "screen-verify.json", tmp_path / "tiny.verify.json")
    _holds_together(tmp_path, "tiny.verify.json", "tiny.b1.bench.json", "tiny.b2.bench.json", capsys)


@pytest.mark.adb
def test_it_comes_home_over_adb(
    results: Path, plug_in: Callable[..., ScriptedPhone], tmp_path: Path, capsys: Told
) -> None:
    phone = plug_in()
    for name in RESULTS:
        shutil.copy(results / f"{name}.json", phone.files / "results")
    home = tmp_path / "home"  # beside the phone's own files
    assert run(["device", "pull", str(TINY), "-o", str(home)]) == 0
    assert "another bundle" in capsys.readouterr().out  # s1 is of p1, use of the cascade
    kept = {path.name.split(".")[-3]: path.name for path in home.glob("tiny.*.json")}
    assert set(kept) == {*BENCHES, "screen-verify"}
    assert read_json(MeasurementSet, home / kept["screen-verify"]) == read_json(
        MeasurementSet, results / "screen-verify.json"
    )
    _holds_together(home, kept["screen-verify"], kept["b1"], kept["b2"], capsys)


def _holds_together(home: Path, verification: str, before: str, after: str, capsys: Told) -> None:
    """The records in ``home`` are taken by every command that takes the desk's own."""
    measured = read_json(BenchSet, home / before)
    assert {row.phase for row in measured.runs} == {"tune", "report"}
    assert {row.outcome for row in measured.runs} == {Outcome.PASSED}
    assert run(["bench", "--compare", str(home / before), str(home / after)]) in (0, 1)
    told = capsys.readouterr().out
    assert "ptl-fp32-xnnpack" in told
    assert "onnx-fp32" in told
    gate = ["gate", str(TINY), "--verification", str(home / verification), "--bench", str(home / before)]
    assert run([*gate, "-o", str(home / "tiny.gate.json")]) in (0, 1)
    assert run(["report", str(home), "-o", str(home / "report.md")]) == 0
    report = (home / "report.md").read_text()
    assert "Android 15" in report
    assert "/ptl-fp32-xnnpack t2 |" in report
