"""Estimates follow what will be done: more epochs, more techniques and larger students cost more."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporters.export import estimate_export
from exporters.formats.contract import ExportOptions
from udacisense.base.records import ModelSpec
from udacisense.cli import demo, output
from udacisense.data.images import DataSet, load_dataset
from udacisense.data.shapes import draw_dataset
from udacisense.measure.estimate import Estimate, total
from udacisense.models.build import build_model, preset
from udacisense.pipeline.plan import estimate_pipeline
from udacisense.pipeline.recipes import find_pipeline
from udacisense.pipeline.techniques import TECHNIQUES, estimate_techniques


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    folder = tmp_path_factory.mktemp("costs") / "shapes"
    draw_dataset(folder, train_per_class=4, test_per_class=1, seed=0)
    return load_dataset(str(folder))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[ModelSpec, int, bool]]:
    """What training was estimated of: (network, epochs, whether a teacher answers), for 10 s and 1,000 bytes each."""
    made: list[tuple[ModelSpec, int, bool]] = []

    def told(spec: ModelSpec, *, epochs: int, teacher: object = None, **_: object) -> Estimate:
        made.append((spec, epochs, teacher is not None))
        return Estimate(what="training", seconds=10.0, disk_bytes=1_000)

    for room in ("techniques", "plan"):
        monkeypatch.setattr(f"udacisense.pipeline.{room}.estimate_training", told)
    monkeypatch.setattr("udacisense.pipeline.techniques.seconds_an_image", lambda *_: 0.0)
    return made


def test_techniques_cost_what_each_of_them_trains(shapes: DataSet, asked: list[tuple[ModelSpec, int, bool]]) -> None:
    spec = preset("tiny", resolution_px=32)
    baseline = build_model(spec)
    names = ("graph", "pruning-gradual", "structured-pruning", "distillation", "resolution-96")
    cost = estimate_techniques([TECHNIQUES[name] for name in names], spec, baseline, shapes, epochs=3)
    untrained = estimate_techniques([TECHNIQUES["graph"]], spec, baseline, shapes, epochs=3)
    assert cost.seconds == 5 * untrained.seconds + 40.0, "four of the five train"
    assert cost.disk_bytes > 4_000
    resolutions = {(made.options["resolution_px"], epochs, is_taught) for made, epochs, is_taught in asked}
    assert resolutions == {(32, 3, False), (224, 3, True), (96, 3, True)}
    assert len(asked) == 3, "one network is timed once"


def test_a_technique_whose_engine_is_missing_costs_nothing(
    shapes: DataSet, asked: list[tuple[ModelSpec, int, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("udacisense.pipeline.techniques.supported_engines", lambda: ("qnnpack",))
    spec = preset("tiny", resolution_px=32)
    rows = [TECHNIQUES["qat-fbgemm"], TECHNIQUES["qat-qnnpack"]]
    cost = estimate_techniques(rows, spec, build_model(spec), shapes, epochs=None)
    assert cost.what.startswith("1 technique (qat-qnnpack), 1 of which with 4 epochs")
    assert "fbgemm" not in cost.what


def test_a_pipeline_is_estimated_at_its_own_students_resolution(asked: list[tuple[ModelSpec, int, bool]]) -> None:
    baseline = build_model(preset("tiny", resolution_px=32))
    estimate_pipeline(find_pipeline("p1"), None, baseline, n_images=10, epochs=None)
    assert asked[0][0].options["resolution_px"] == 128


def test_the_demo_costs_more_where_it_does_more() -> None:
    few = demo._estimate({"p1": (("onnx",), ("fp32",))}, timed=(), n_images=None, cores=2)
    more = demo._estimate({"p1": (("onnx",), ("fp32", "int8-static"))}, timed=("onnx-fp32",), n_images=None, cores=2)
    assert more.disk_bytes > few.disk_bytes > 6_000_000, "two float32 files and the reference weigh this at least"
    assert more.seconds > few.seconds


def test_static_int8_takes_the_time_of_its_calibration() -> None:
    options = ExportOptions(formats=("onnx",), precisions=("fp32", "int8-static"))
    quick, slow = (estimate_export(options, parameters=1_000, cores=2, image_s=s).seconds for s in (0.0, 0.1))
    assert slow > quick + 128 * 0.1
    plain = ExportOptions(formats=("onnx",), precisions=("fp32",))
    assert estimate_export(plain, parameters=1_000, cores=2, image_s=0.1).seconds < quick


def test_a_sum_of_costs(tmp_path: Path) -> None:
    made = total("both", [Estimate(what=w, seconds=2.0, disk_bytes=3) for w in "ab"])
    assert made == Estimate(what="both", seconds=4.0, disk_bytes=6)


def test_a_long_list_stands_below_the_figures_and_is_folded_between_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    options = ExportOptions(formats=("ptl", "onnx"), precisions=("fp32", "int8-dynamic"))
    output.announce(estimate_export(options, parameters=1_000, cores=2), tmp_path / "o")
    first, *below = capsys.readouterr().err.splitlines()
    assert first.startswith("7 variants: about ")
    assert f"are free for {tmp_path / 'o'}." in first
    assert len(below) > 1
    assert max(map(len, below)) <= 60
    names = " ".join(below).replace(",", "").split()
    assert names[0] == "ptl-fp32"
    assert names[-1] == "ort-int8-dynamic"
    assert len(names) == 7


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "1 s"),
        (0.7, "1 s"),
        (42.4, "42 s"),
        (89.4, "89 s"),
        (90.0, "2 min"),
        (1380.0, "23 min"),
        (5760.0, "1.6 h"),
    ],
)
def test_a_duration_is_said_in_its_largest_fitting_unit(seconds: float, words: str) -> None:
    assert output.duration(seconds) == words
