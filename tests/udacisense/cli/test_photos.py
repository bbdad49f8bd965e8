"""Photos on the command line: at which size they are fed, and what is said of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from drawn_photos import photo_folder

from udacisense.base.records import Artifact, read_json
from udacisense.cli.main import run

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


def test_a_trained_models_own_size_is_kept_and_said(
    trained: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["evaluate", str(trained), "--data", str(photos)]) == 0
    assert "are fed at 64 px" in capsys.readouterr().err
