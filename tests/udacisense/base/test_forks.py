"""Children as forks: that they are processes of their own, and what happens where none can be forked."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from udacisense.base import child
from udacisense.base.child import run_child, warm_children
from udacisense.base.forks import can_fork

pytestmark = pytest.mark.skipif(not can_fork(), reason="this system does not fork safely")
TELLS = """
import os, sys
def main(folder):
    loaded = "colorsys" in sys.modules
    (folder / "said").write_text(f"{os.getpid()} {os.getppid()} {os.getpgrp()} {loaded}")
"""
FATAL = "import os\nos.abort()\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(child, "_forges", [])  # the run's own
    (tmp_path / "code").mkdir()
    for name, text in {"tells": TELLS, "fatal": FATAL}.items():
        (tmp_path / "code" / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    (tmp_path / "own").mkdir()
    return tmp_path / "own"


def said(folder: Path) -> list[str]:
    assert run_child("tells", folder, timeout_s=60) is None
    return (folder / "said").read_text().split()


def test_forks_are_processes_of_their_own_and_find_loaded_what_was_asked_for(folder: Path) -> None:
    with warm_children("colorsys"):
        (one, forger, group, loaded), (two, other, _, _) = said(folder), said(folder)
        assert psutil.Process(int(forger)).ppid() == os.getpid()
    assert (group, loaded) == (one, "True")
    assert one != two
    assert forger == other != str(os.getpid())
    assert not psutil.pid_exists(int(forger))


@pytest.mark.parametrize(("threads", "shares_cores"), [(2, True), (1, False)])
def test_what_has_the_cores_for_itself_starts_afresh(
    threads: int, shares_cores: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # as a user may have it set
    with warm_children("colorsys"):
        assert run_child("tells", folder, timeout_s=60, threads=threads, shares_cores=shares_cores) is None
    assert (folder / "said").read_text().split()[3] == "False"


def test_children_start_afresh_where_loading_ended_the_forking_process(folder: Path) -> None:
    with warm_children("fatal"):
        assert said(folder)[1] == str(os.getpid())


def test_children_start_afresh_when_the_forking_process_is_gone(folder: Path) -> None:
    with warm_children():
        os.kill(int(said(folder)[1]), signal.SIGKILL)
        assert said(folder)[1] == str(os.getpid())
