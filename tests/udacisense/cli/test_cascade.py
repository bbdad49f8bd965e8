"""``udacisense cascade`` through the command line: a folder that is whole, and answers for what is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from exporters.bundle.manifest import Manifest
from exporters.bundle.open import check_files, opened
from harness.gate.run import GateReport
from harness.records import MeasurementSet
from harness.verify.beyond.inputs import read_unknown
from udacisense.base.records import Outcome, read_json
from udacisense.cli.main import run
from udacisense.data.batches import normalise
from udacisense.data.images import load_dataset
from udacisense.data.shapes import draw_dataset
from udacisense.errors import InputError, LoadError
from udacisense.measure.cascade import Cascade
from udacisense.measure.shifts import SHIFTS, shift_images
from udacisense.models.artifact import load_artifact
from udacisense.models.cascade import load_cascade
from udacisense.pipeline.recipes import CASCADES, PIPELINES

WAYS = ("ptl-fp32", "ptl-int8-static-qnnpack")


@pytest.fixture(scope="session")
def place(once: Callable[..., Path]) -> Path:
    """Two networks, trained for a moment on drawn shapes, and the cascade of them."""

    def make(folder: Path) -> None:
        draw_dataset(folder / "shapes", train_per_class=20, test_per_class=10, seed=1)
        # Of one seed, both would start alike, and an epoch in which neither learns would leave them alike.
        for seed, (name, epochs) in enumerate([("small", 2), ("large", 6)]):
            line = f"train --model tiny --resolution 32 --epochs {epochs} --batch-size 20 --lr 4e-3 --init none"
            line += f" --seed {seed}"
            assert run([*line.split(), "--data", f"{folder}/shapes", "-o", f"{folder}/{name}"]) == 0
        members = [f"{folder}/{name}/artifact" for name in ("small", "large")]
        line = ["cascade", *members, "--data", f"{folder}/shapes", "--max-asked", "0.5", "-o", f"{folder}/cascade"]
        assert run(line) == 0

    return once("cascade", make)


def test_the_folder_holds_members_thresholds_temperatures_and_the_curve(place: Path) -> None:
    made, places = load_cascade(place / "cascade")
    assert [one.name for one in made.members] == ["tiny", "tiny-2"]
    assert [path.name for path in places] == ["tiny", "tiny-2"]
    assert made.members[0].threshold == made.chosen.thresholds[0]
    assert made.members[1].threshold is None
    assert made.chosen in made.curve
    assert made.chosen.asked_fraction.value <= 0.5
    assert (made.n_held_back, made.n_test, made.wish.max_points_lost) == (20, 100, None)
    assert all(one.confidence.n_images == 20 for one in made.members)
    assert not [note for note in made.notes if "nothing shows" in note]  # 'train' kept each temperature


def test_a_cascade_of_models_that_ship_keeps_their_names_alone(place: Path, tmp_path: Path) -> None:
    shapes = f"{place}/shapes"
    assert run(["cascade", "tiny", "p1", "--data", shapes, "-o", str(tmp_path / "out")]) == 2  # other classes
    assert not (tmp_path / "out").exists()


def test_a_changed_member_and_a_foreign_place_are_refused(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "cascade", tmp_path / "c")
    record = tmp_path / "c" / Cascade.FILE_NAME
    text = record.read_text()
    record.write_text(text.replace("members/tiny-2", "../elsewhere"))
    with pytest.raises(InputError, match="or lies in members/ under its name"):
        load_cascade(tmp_path / "c")
    record.write_text(text)
    shutil.copytree(place / "large" / "artifact", tmp_path / "c" / "members" / "tiny", dirs_exist_ok=True)
    with pytest.raises(LoadError, match="The weights of tiny are not those that the cascade"):
        load_cascade(tmp_path / "c")


def test_a_wish_that_nothing_fulfils_leaves_nothing(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = [f"{place}/{name}/artifact" for name in ("small", "large")]
    line = ["cascade", *members, "--data", f"{place}/shapes", "-o", str(tmp_path / "out")]
    assert run([*line, "--max-mean-ms", "0.000001"]) == 2
    assert "No thresholds fulfil the wish." in capsys.readouterr().err
    assert run([*line, "--max-asked", "30"]) == 2
    assert run([line[0], line[1], *line[3:]]) == 2
    assert "A cascade has 2 to 3 members" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_one_model_of_a_cascade_is_asked_for_where_one_is_meant(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["evaluate", f"{place}/cascade", "--data", f"{place}/shapes"]) == 2
    assert "is a cascade of several models" in capsys.readouterr().err
    assert read_json(Cascade, place / "cascade" / Cascade.FILE_NAME).name == "cascade"


class ByHand(NamedTuple):
    """What the two models decide, worked out from their own answers."""

    threshold: float
    asks: np.ndarray  # whether the second one is asked
    answers: np.ndarray
    is_given: np.ndarray  # else it is none of the classes


def _decided(place: Path, threshold: float | None, images: torch.Tensor | None = None) -> ByHand:
    """Work out by hand: the threshold (None: the middle margin), who, what; of the test images, or of others."""
    made, places = load_cascade(place / "cascade")
    images = load_dataset(f"{place}/shapes", size_px=32).test.pixels if images is None else images
    found = []
    for member, folder in zip(made.members, places, strict=True):
        artifact, model = load_artifact(folder)
        inputs = normalise(images, mean=artifact.signature.mean, std=artifact.signature.std)
        with torch.no_grad():
            found.append(torch.softmax(model(inputs).double() / member.confidence.temperature, dim=1).numpy())
    margin = [ordered[:, -1] - ordered[:, -2] for ordered in (np.sort(one, axis=1) for one in found)]
    threshold = float(np.median(margin[0])) if threshold is None else threshold
    asks = margin[0] < threshold
    given = [m >= member.confidence.unsure_below for m, member in zip(margin, made.members, strict=True)]
    answers = np.where(asks, found[1].argmax(axis=1), found[0].argmax(axis=1))
    return ByHand(threshold, asks, answers, np.where(asks, given[1], given[0]))


@pytest.fixture(scope="session")
def shipped(place: Path, once: Callable[..., Path]) -> Path:
    """The cascade, where half of the images go on, as a bundle in two precisions, verified on the test images."""

    def make(folder: Path) -> None:
        shutil.copytree(place / "cascade", folder / "cascade")
        record = json.loads((folder / "cascade" / Cascade.FILE_NAME).read_text())
        record["members"][0]["threshold"] = _decided(place, None).threshold
        (folder / "cascade" / Cascade.FILE_NAME).write_text(json.dumps(record))
        data = ["--data", f"{place}/shapes"]
        line = "-f ptl --precision fp32 --precision int8-static"
        assert run(["export", f"{folder}/cascade", *line.split(), *data, "-o", f"{folder}/ship"]) == 0
        chosen = [f"--variant={name}.{way}" for name in ("tiny", "tiny-2") for way in WAYS]
        # int8 of networks that learned for a moment may fail.
        more = ["--shift", "--unknown", f"{place}/shapes/train"]
        assert run(["verify", f"{folder}/ship", "--runner", "lite", *chosen, *data, *more]) in (0, 1)

    return once("shipped-cascade", make)


@pytest.mark.slow
def test_a_bundle_holds_both_members_each_in_every_format(shipped: Path) -> None:
    cascade, _ = load_cascade(shipped / "cascade")
    with opened(shipped / "ship") as bundle:
        assert check_files(bundle) == []
        manifest = bundle.manifest
        assert manifest.members is not None
        assert [(m.name, m.threshold, m.confidence) for m in manifest.members] == [
            (m.name, m.threshold, m.confidence) for m in cascade.members
        ]
        ways = {way.id: way for way in manifest.ways()}
        assert set(WAYS) <= set(ways)
        first, second = (bundle.variant(member.variants["ptl-fp32"]) for member in manifest.members)
        assert (first.id, second.id) == ("tiny.ptl-fp32", "tiny-2.ptl-fp32")
        assert ways["ptl-fp32"].file_bytes == (first.file_bytes or 0) + (second.file_bytes or 0)
        for member, variant, own in zip(manifest.members, (first, second), bundle.members(), strict=True):
            assert bundle.path(variant.path or "").read_bytes() == own.path("model-ptl-fp32.ptl").read_bytes()
            assert own.manifest.temperature == member.confidence.temperature
            # What an app replays at the joined variant is what the member's own float32 model answers.
            assert np.array_equal(bundle.golden_logits(variant), own.golden_logits())
        assert np.array_equal(bundle.members()[1].golden_inputs(), bundle.golden_inputs())


@pytest.mark.slow
def test_verify_proves_the_members_and_what_they_decide_together(place: Path, shipped: Path) -> None:
    threshold = load_cascade(shipped / "cascade")[0].members[0].threshold
    _, asks, answers, is_given = _decided(place, threshold)
    labels = load_dataset(f"{place}/shapes", size_px=32).test.labels.numpy()
    made = read_json(MeasurementSet, shipped / "ship.verify.json")
    rows = {(m.spec.variant_id, m.spec.runner): m for m in made.measurements if m.spec.engine in (None, "qnnpack")}
    together = rows["ptl-fp32", "lite"]
    assert together.outcome is Outcome.PASSED
    found = together.comparison
    assert found is not None
    assert found.asked is not None
    assert found.top1_fraction == pytest.approx((answers == labels).mean())
    assert found.asked.reached_fractions == pytest.approx((1.0, asks.mean()), abs=0.011)  # one image is on the edge
    assert (len(found.flips), found.n_inputs) == (0, 100)
    assert found.asked.n_otherwise <= 1
    assert found.certainty is not None
    assert found.certainty.threshold is None  # each member's own
    assert found.certainty.answered_fraction == pytest.approx(is_given.mean(), abs=0.011)
    assert rows["tiny.ptl-fp32", "lite"].outcome is Outcome.PASSED
    assert rows["tiny-2.ptl-fp32", "lite"].outcome is Outcome.PASSED
    quantised = rows["ptl-int8-static-qnnpack", "lite"].comparison
    assert quantised is not None
    assert quantised.asked is not None
    assert quantised.asked.reference_reached_fractions == found.asked.reference_reached_fractions
    assert quantised.asked.n_otherwise > 0
    assert "another member answers" in rows["ptl-int8-static-qnnpack", "lite"].warnings[0]


@pytest.mark.slow
def test_the_way_is_held_on_other_things_and_shifted_photos_as_its_members_decide_them(
    place: Path, shipped: Path
) -> None:
    made = read_json(MeasurementSet, shipped / "ship.verify.json")
    ways = {m.spec.variant_id: m.comparison for m in made.measurements}
    found, quantised = ways["ptl-fp32"], ways["ptl-int8-static-qnnpack"]
    assert found is not None
    assert quantised is not None
    threshold = load_cascade(shipped / "cascade")[0].members[0].threshold
    other = torch.from_numpy(read_unknown(place / "shapes" / "train", 32))
    assert found.unknown is not None
    assert found.unknown.n_images == len(other)
    assert found.unknown.taken_fraction == pytest.approx(_decided(place, threshold, other).is_given.mean(), abs=0.006)
    test = load_dataset(f"{place}/shapes", size_px=32).test
    for name, row in zip(SHIFTS, found.shifts.accuracy if found.shifts else (), strict=True):
        right = _decided(place, threshold, shift_images(test.pixels, name, 3)).answers == test.labels.numpy()
        assert (row.shift, row.top1_fractions[2]) == (name, pytest.approx(right.mean(), abs=0.011))
    assert quantised.shifts is not None
    assert quantised.shifts.lost_points != 0


@pytest.mark.slow
def test_a_threshold_of_one_asks_the_last_member_of_every_image(place: Path, shipped: Path, tmp_path: Path) -> None:
    ship = shutil.copytree(shipped / "ship", tmp_path / "ship")
    manifest = json.loads((ship / "manifest.json").read_text())
    manifest["members"][0]["threshold"] = 1.0
    (ship / "manifest.json").write_text(json.dumps(manifest))
    line = ["--variant", "tiny.ptl-fp32", "--variant", "tiny-2.ptl-fp32", "--runner", "lite"]
    assert run(["verify", str(ship), "--data", f"{place}/shapes", *line]) == 0
    made = read_json(MeasurementSet, tmp_path / "ship.verify.json")
    second, together = (
        next(m.comparison for m in made.measurements if m.spec.variant_id == name)
        for name in ("tiny-2.ptl-fp32", "ptl-fp32")
    )
    assert together is not None
    assert second is not None
    assert together.asked is not None
    assert together.asked.reached_fractions == (1.0, 1.0)
    assert together.top1_fraction == second.top1_fraction


@pytest.mark.slow
def test_inspect_says_who_is_asked_when(shipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", f"{shipped}/ship"]) == 0
    told = capsys.readouterr().out
    first, last = read_json(Manifest, shipped / "ship" / "manifest.json").members or ()
    assert (
        f"tiny answers from a margin of {first.threshold:g}, at temperature {first.confidence.temperature:.3g}" in told
    )
    assert f"tiny-2 answers what is left, at temperature {last.confidence.temperature:.3g}" in told


def test_members_that_do_not_fit_the_manifest_are_refused(
    shipped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = shutil.copytree(shipped / "ship", tmp_path / "ship")
    own = broken / "tiny-2" / "manifest.json"
    own.write_text(own.read_text() + " ")
    assert run(["verify", str(broken)]) == 3  # its bytes are not those that the manifest records
    capsys.readouterr()
    manifest = json.loads((broken / "manifest.json").read_text())
    manifest["variants"][0]["precision_note"] = "mine"
    (broken / "manifest.json").write_text(json.dumps(manifest))
    assert run(["bench", str(broken)]) == 2
    assert "contradicts that of its member" in capsys.readouterr().err


@pytest.mark.slow
def test_the_gate_holds_the_way_to_the_same_rules_as_a_file(shipped: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text('[[variant]]\nmatch = "ptl-fp32"\nsize = { max_bytes = 10 }\n')
    line = ["--verification", f"{shipped}/ship.verify.json", "--config", str(rules), "-o", f"{tmp_path}/gate.json"]
    assert run(["gate", f"{shipped}/ship", *line]) == 1
    checks = read_json(GateReport, tmp_path / "gate.json").checks
    mine = {c.check.requirement: c.check.outcome for c in checks if c.variant_id == "ptl-fp32"}
    assert mine["consistent with its source"] is Outcome.PASSED
    assert mine["top-1 lost to the float32 master"] is Outcome.PASSED
    assert mine["file size"] is Outcome.FAILED
    assert {c.variant_id for c in checks} >= {"tiny.ptl-fp32", "tiny-2.ptl-fp32"}


@pytest.mark.slow
def test_the_report_draws_the_curve_with_the_chosen_point(place: Path, shipped: Path, tmp_path: Path) -> None:
    assert run(["report", f"{place}/cascade", str(shipped), "-o", f"{tmp_path}/report.html"]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "Accuracy and mean time of cascade" in page
    assert "chosen, held-back images" in page
    assert "thresholds from 20 held-back images of " in page


@pytest.mark.slow
def test_p3_is_both_pipelines_and_takes_no_student_for_both(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["compress", "--pipeline", "p3", "--baseline", f"{place}/large/artifact", "--data", f"{place}/shapes"]
    assert run([*line, "--student", "tiny", "-o", f"{tmp_path}/p3"]) == 2
    assert "p3 trains the own student of p2 and of p1" in capsys.readouterr().err
    assert not (tmp_path / "p3").exists()
    assert run([*line[:2], "p4", *line[3:], "-o", f"{tmp_path}/p3"]) == 2
    assert "p3 (p2 → p1)" in capsys.readouterr().err
    assert all(name in PIPELINES for members in CASCADES.values() for name in members)
