"""Bundles that are named by '.', '..', a slash, a link or the root of the file system."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import pytest

from udacisense.cli.main import run
from udacisense.cli.options import BundlePath, record_beside


def beside(given: str) -> Path:
    return record_beside(BundlePath().convert(given, None, None), "verify")


def test_a_record_lies_beside_a_bundle_however_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "bundle" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "bundle")
    monkeypatch.chdir(tmp_path / "bundle")
    record = tmp_path / "bundle.verify.json"
    assert {beside(given) for given in (".", "./", f"{tmp_path}/bundle/", "inner/..", "../bundle")} <= {
        record,
        Path("../bundle.verify.json"),
    }
    monkeypatch.chdir(inner)
    assert beside("..") == record
    assert beside("../..") == tmp_path.with_name(f"{tmp_path.name}.verify.json")
    assert beside(str(tmp_path / "link")) == tmp_path / "link.verify.json"


@pytest.mark.parametrize("command", ["verify", "bench", "gate", "inspect"])
def test_the_root_of_the_file_system_is_refused(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "/"]) == 2
    assert "is the root of the file system" in capsys.readouterr().err
    with pytest.raises(click.BadParameter):
        beside(f"{Path.cwd().anchor}..")


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (["export", "p1", "--init", "", "-o", "new"], "--init"),
        (["export", "p1", "--data=", "-o", "new"], "--data"),
        (["export", "p1", "-o", ""], "-o"),
        (["device", "stage", ""], "An argument"),
    ],
)
def test_an_empty_value_is_not_the_working_folder(
    line: list[str], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(line) == 2
    assert f"Error: {name} is empty, as of a shell's variable that is not set; give a value." in capsys.readouterr().err


def test_a_bundle_is_verified_and_gated_from_within(
    stage: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = stage("torchscript")
    monkeypatch.chdir(bundle)
    assert run(["verify", "."]) == 0
    assert run(["gate", "."]) in (0, 1)
    assert {path.name for path in bundle.parent.glob("bundle.*")} == {"bundle.verify.json", "bundle.gate.json"}
    assert run(["inspect", "."]) == 0, "nothing was written into the bundle"
