from __future__ import annotations

import logging
import shlex
from pathlib import Path

import pytest

from udacisense.cli import demo
from udacisense.cli.main import run
from udacisense.zoo.table import zoo_folder


def test_the_demo_takes_a_folder_with_a_blank_in_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "my demo"
    assert run(["demo", "-o", str(folder), "--dry-run"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("udacisense ")]
    assert [line.split()[1] for line in lines[:3]] == ["train", "compress", "compress"]
    assert len(lines) == 14, "then four exports, four verifications, one sweep, two reports"
    for line in lines:
        places = [word for word in shlex.split(line) if "demo" in word]
        assert places
        assert all(Path(place).is_relative_to(folder) for place in places), line


def test_the_demo_is_of_what_ships_in_a_folder_that_holds_a_model_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p1").mkdir()
    assert run(["demo", "--dry-run"]) == 0
    lines = [line.split() for line in capsys.readouterr().err.splitlines()]
    exported = [words[2] for words in lines if words[:2] == ["udacisense", "export"]]
    assert exported == ["baseline", str(zoo_folder("p1")), "tiny", "cascade"]


def test_the_demos_commands_say_as_much_as_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("udacisense")
    before = log.level
    try:
        log.setLevel(logging.DEBUG)
        assert demo._run("inspect nowhere") == 2
        loud = capsys.readouterr().err
        log.setLevel(logging.INFO)
        assert demo._run("inspect nowhere") == 2
    finally:
        log.setLevel(before)
    assert "Traceback" in loud
    assert "Traceback" not in capsys.readouterr().err
