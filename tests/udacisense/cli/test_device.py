"""`udacisense device` where no phone is needed: bad input, no adb, and a bundle into the app's sources."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from exporters.bundle.open import bundle_sha256, check_bundle
from udacisense.cli.main import run


@pytest.fixture(scope="module")
def staged_bundle(stage: Callable[..., Path]) -> Path:
    return stage("ptl")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "android_demo"
    (folder / "app" / "src" / "main" / "assets" / "bundle").mkdir(parents=True)
    (folder / "app" / "src" / "main" / "assets" / "bundle" / "stale.ptl").write_text("of an older bundle")
    return folder


def test_stage_puts_the_whole_bundle_in_place_of_the_old_one(
    staged_bundle: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.parent)
    assert run(["device", "stage", str(staged_bundle)]) == 0
    assert check_bundle(project / "app" / "src" / "main" / "assets" / "bundle") == []  # a stale file would be extra


def test_a_rollout_is_staged_beside_the_bundle_and_ends_with_the_next_one(staged_bundle: Path, project: Path) -> None:
    place = project / "app" / "src" / "main" / "assets" / "bundle"
    line = ["device", "stage", str(staged_bundle), "--project", str(project)]
    assert run([*line, "--rollout", "ptl-fp32=10"]) == 0
    assert json.loads((place / "rollout.json").read_text()) == {"schema_version": 1, "percent": {"ptl-fp32": 10.0}}
    assert bundle_sha256(place) == bundle_sha256(staged_bundle)
    assert run([*line, "--rollout", "ptl-fp32=1000"]) == 2
    assert (place / "rollout.json").exists()  # a refusal changes nothing
    assert run(line) == 0
    assert check_bundle(place) == []


def test_stage_refuses_a_damaged_bundle_and_leaves_the_old_one(
    staged_bundle: Path, project: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(staged_bundle, tmp_path / "damaged")
    (copy / "labels.txt").write_text("other\n")
    assert run(["device", "stage", str(copy), "--project", str(project)]) == 3
    assert [p.name for p in (project / "app/src/main/assets/bundle").iterdir()] == ["stale.ptl"]


def test_stage_outside_of_a_project_says_what_to_do(
    staged_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["device", "stage", str(staged_bundle)]) == 2
    assert "--project" in capsys.readouterr().err


# The client library leaves the socket of a refused connection to the garbage collector.
@pytest.mark.filterwarnings("ignore:Exception ignored in.*socket:pytest.PytestUnraisableExceptionWarning")
def test_without_adb_the_message_says_how_to_get_it(
    staged_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ADBUTILS_ADB_PATH", str(tmp_path / "no-adb"))
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", "1")  # nothing listens there
    assert run(["device", "push", str(staged_bundle)]) == 2
    assert "adb was not found" in capsys.readouterr().err


@pytest.mark.parametrize("threads", ["0", "1,x", "", "65"])
def test_thread_counts_are_checked_before_anything_is_asked(
    staged_bundle: Path, threads: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["device", "bench", str(staged_bundle), "--threads", threads]) == 2
    assert "--threads" in capsys.readouterr().err


def test_what_is_no_apk_is_not_sent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "app.apk"
    file.write_text("no zip")
    assert run(["device", "install", str(file)]) == 2
    assert "is no APK" in capsys.readouterr().err
    assert run(["device", "install", str(tmp_path / "absent.apk")]) == 2
