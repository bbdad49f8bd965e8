"""Photos on the command line: at which size they are fed, and what is said of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from drawn_photos import photo_folder

from udacisense.base.records import Artifact, read_json
from udacisense.cli.evaluate import _show_classes
from udacisense.cli.main import run
from udacisense.data import images
from udacisense.data.decoding import cached_squares
from udacisense.data.folder import list_folder
from udacisense.measure.metrics import score

COUNTS = {"train": {"cup": 6, "pan": 4}, "test": {"cup": 2, "pan": 2}}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photo_folder(tmp_path_factory.mktemp("photos") / "photos", COUNTS)


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    line = ["train", "--data", str(photos), "--model", "tiny", "--resolution", "64", "--epochs", "1"]
    assert run([*line, "-o", str(folder)]) == 0
    return folder / "artifact"


def test_photos_are_trained_on_at_the_networks_resolution(trained: Path) -> None:
    assert read_json(Artifact, trained / Artifact.FILE_NAME).signature.size_px == 64


def test_train_says_the_size_that_it_chose(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["train", "--data", str(photos), "--model", "tiny", "--dry-run", "-o", str(tmp_path / "o")]
    assert run([*line, "--resolution", "64"]) == 0
    told = capsys.readouterr().err
    assert "of about 160 × 120 px, are fed at 64 px, the network's own resolution (--image-size changes it)" in told
    assert run([*line, "--image-size", "40"]) == 0
    assert "are fed at 40 px: short edge resized, centre cut out." in capsys.readouterr().err


@pytest.mark.parametrize("place", ["", "train", "train/cup", "test/new", ".."])
def test_an_output_among_the_photos_is_refused(photos: Path, place: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "--data", str(photos), "--model", "tiny", "-o", str(photos / place)]) == 2
    assert "lies among the photos" in capsys.readouterr().err


def test_a_trained_models_own_size_is_kept_and_said(
    trained: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["evaluate", str(trained), "--data", str(photos)]) == 0
    assert "are fed at 64 px" in capsys.readouterr().err


def test_train_says_the_worst_of_its_photos_in_one_line_and_a_dry_run_opens_none(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(images, "read_square", None)  # whoever calls it fails
    line = ["train", "--model", "tiny", "--resolution", "64", "--dry-run", "-o", str(tmp_path / "o"), "--data"]
    worse = shutil.copytree(photos, tmp_path / "worse")
    (worse / "train" / "cup" / "phone.heic").write_bytes(b"x")
    assert run([*line, str(worse)]) == 0
    assert f"1 file of {worse} is not read: 'udacisense data check {worse}' says why." in capsys.readouterr().err
    for i in range(40):
        shutil.copy(worse / "train" / "cup" / f"{i % 6}.jpg", worse / "train" / "cup" / f"more{i}.jpg")
    assert run([*line, str(worse)]) == 0
    assert "The classes are unequal, 46 training photos of 'cup' and 4 of 'pan': train with --balance" in (
        capsys.readouterr().err
    )
    shutil.copy(worse / "train" / "cup" / "1.jpg", worse / "test" / "cup" / "leak.jpg")
    monkeypatch.undo()
    assert run([*(word for word in line if word != "--dry-run"), str(worse), "--epochs", "1"]) == 0
    told = capsys.readouterr().err
    assert "1 of the 5 test images are in train too, and flatter the model" in told
    assert "file of" not in told


def test_two_classes_have_no_top5_and_the_mean_of_their_recalls(
    trained: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["evaluate", str(trained), "--data", str(photos)]) == 0
    told = capsys.readouterr().out
    assert "top-5" not in told
    assert "mean recall of the classes" in told


def test_of_a_thousand_classes_the_worst_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"class {i}" for i in range(1000)]
    labels = torch.arange(1000).repeat(2)
    answers = torch.nn.functional.one_hot(labels, 1000).float()
    answers[7, 8] = answers[1007, 8] = 2.0
    _show_classes(score(answers, labels, names), names)
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "The 20 classes with the least recall"
    assert any(line.split() == ["class", "7", "2", "0.0", "%"] for line in told)
    assert any(line.split() == ["class", "7", "class", "8", "2"] for line in told)
    assert len(told) < 40


def test_data_check_ends_with_one_where_a_photo_is_in_both_splits(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["data", "check", str(photos)]) == 0
    assert "Nothing is odd." in capsys.readouterr().out
    leaky = shutil.copytree(photos, tmp_path / "leaky")
    shutil.copy(leaky / "train" / "cup" / "1.jpg", leaky / "test" / "cup" / "leak.jpg")
    assert run(["data", "check", str(leaky)]) == 1
    told = capsys.readouterr().out
    assert "failed (1): test photos that are in train too, pixel by pixel" in told
    assert "train/cup/1.jpg = test/cup/leak.jpg" in told
    assert run(["data", "check", str(leaky), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["findings"][0]["kind"] == "in-train-and-test"


def test_what_is_kept_of_large_sets_is_listed_and_removed(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UDACISENSE_CACHE", str(tmp_path))
    cached_squares(list_folder(photos).flat("test"), 32, "reading")
    assert run(["data", "list"]) == 0
    told = capsys.readouterr().out
    assert str(photos / "test") in told
    assert "0.013 MB" in told
    assert run(["data", "remove", "all"]) == 0
    assert "Removed" in capsys.readouterr().out
    assert run(["data", "remove", "all"]) == 0
    assert "Nothing is kept of all." in capsys.readouterr().out
