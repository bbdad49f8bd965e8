"""The environments of converters: what is missing in one is named, with the command that makes it anew."""

from __future__ import annotations

import re
import shutil
import sys
import venv
from pathlib import Path
from types import SimpleNamespace

import pytest

from exporters.formats.table import FORMATS
from exporters.toolchain import setup
from exporters.toolchain.setup import Installed
from harness.runners.table import RUNNERS
from udacisense.base.child import run_child
from udacisense.base.records import write_record
from udacisense.cli.main import run
from udacisense.errors import InputError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UDACISENSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def made(cache: Path) -> Path:
    """A real environment with one small package in place of the large ones."""
    folder = setup.folder_of("litert")
    venv.create(folder, with_pip=False, symlinks=True)
    packages = setup._packages(folder)
    (packages / "small").mkdir()
    (packages / "small" / "__init__.py").write_text("x = 1\n")
    (packages / "small-1.0.dist-info").mkdir()
    (packages / "small-1.0.dist-info" / "RECORD").write_text("small/__init__.py,sha256=x,6\n")
    record = Installed(
        lock_sha256=setup._lock_sha256(),
        python="3.11.7",
        entries=tuple(sorted(path.name for path in packages.iterdir())),
        created_utc="2026-01-01T00:00:00+00:00",
        disk_bytes=1,
    )
    write_record(folder / "toolchain.json", record)
    return folder


def test_every_requirement_has_one_release_and_hashes() -> None:
    entries = setup._requirements(setup._LOCK.read_text())
    assert len(entries) > 40
    assert all(re.match(r"[a-z0-9._-]+==[0-9]", entry) and "--hash=sha256:" in entry for entry in entries)


@pytest.mark.parametrize("name", setup.TOOLCHAINS)
def test_formats_and_runners_say_how_to_get_it(name: str) -> None:
    reason = setup.unusable(name)
    assert reason is not None
    assert f"udacisense runtime add {name}" in reason
    for written in setup.TOOLCHAINS[name].formats:
        assert FORMATS[written].unavailable() == reason
        assert {row.unavailable() for row in RUNNERS.values() if row.toolchain == name} == {reason}


def test_a_whole_environment_is_usable(made: Path) -> None:
    assert setup.unusable("litert") is None
    assert setup.unusable("executorch") is None  # the same environment
    assert setup.python_of("litert") == made / "bin" / "python"
    assert setup.python_of(None) is None


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda folder: (folder / "toolchain.json").unlink(), "its set-up was not finished"),
        (lambda folder: shutil.rmtree(setup._packages(folder) / "small"), "has lost small"),
        (lambda folder: [(folder / "bin" / p).unlink() for p in ("python",)], "the Python 3.11.7 that"),
    ],
)
def test_a_broken_environment_is_named_with_its_command(made: Path, harm, words: str) -> None:
    harm(made)
    for reason in (setup.unusable("litert"), setup.damage("litert")):
        assert reason is not None
        assert words in reason
        assert "udacisense runtime add litert" in reason
    assert setup.python_of("litert") is None


def test_a_changed_file_is_found_by_the_doctor_alone(made: Path) -> None:
    (setup._packages(made) / "small" / "__init__.py").write_text("")
    assert setup.unusable("litert") is None
    reason = setup.damage("litert")
    assert reason is not None
    assert "small/__init__.py of small-1.0 is not as installed" in reason


def test_another_lock_asks_for_a_new_environment(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "_lock_sha256", lambda: "0" * 64)
    assert "another release of this program" in (setup.unusable("litert") or "")


def test_a_disk_without_room_is_refused_beforehand(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))
    with pytest.raises(InputError, match=r"takes 9 GB .* where 1\.0 GB are free"):
        setup.add_toolchain("litert")
    assert not setup.folder_of("litert").exists()


def test_downloads_that_an_ended_set_up_left_are_named_and_count_as_room(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    downloads = setup.folder_of("litert").with_name("torch-2.14.1.downloads")
    downloads.mkdir(parents=True)
    (downloads / "half.whl").write_bytes(bytes(1000))
    assert run(["runtime", "doctor"]) == 1
    assert "its set-up was not finished; run `udacisense runtime add litert`" in capsys.readouterr().out
    monkeypatch.setattr(setup.shutil, "disk_usage", lambda _: SimpleNamespace(free=setup.DISK_BYTES - 1000))
    setup._check_room("litert", setup.folder_of("litert"), None)
    (downloads / "half.whl").unlink()
    with pytest.raises(InputError, match="make room"):
        setup._check_room("litert", setup.folder_of("litert"), None)


def test_packages_that_are_not_there_leave_nothing_behind(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUSTUP_HOME", str(tmp_path / "rustup"))  # pip asks every compiler for its version
    (tmp_path / "wheels").mkdir()
    with pytest.raises(InputError, match=r"pip failed: No matching distribution.* Nothing was set up"):
        setup.add_toolchain("litert", offline_dir=tmp_path / "wheels")
    assert not setup.folder_of("litert").exists()


def test_another_python_finds_our_packages_and_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "in_other_python.py").write_text(
        "import importlib.util as u, pathlib\n"
        "def main(folder):\n"
        "    names = ('udacisense', 'exporters', 'harness', 'in_other_python')\n"
        "    (folder / 'found').write_text(' '.join(n for n in names if u.find_spec(n)))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "theirs"))
    (tmp_path / "work").mkdir()
    assert run_child("in_other_python", tmp_path / "work", timeout_s=60, python=Path(sys.executable)) is None
    assert (tmp_path / "work" / "found").read_text() == "udacisense exporters harness in_other_python"
