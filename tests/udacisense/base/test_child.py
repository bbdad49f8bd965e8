"""Child processes: what they import, how they end, and what their parent hears of it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import psutil
import pytest

from udacisense.base import child
from udacisense.base.child import StoppedError, child_pool, read_in_child, run_child, warm_children
from udacisense.base.records import ModelSpec
from udacisense.errors import LoadError

REPOSITORY = Path(__file__).resolve().parents[3]
# One function a way to end; each file is a module whose main is called.
CHILDREN = {
    "works": """
from pathlib import Path
def main(folder, *words):
    (folder / "said").write_text(" ".join([*words, str(Path.cwd())]))
""",
    "raises": """
def main(folder):
    raise KeyError("weight of " + 300 * "a long story, " + "and its end")
""",
    "leaves": """
import sys
def main(folder):
    sys.exit("no such thing")
""",
    "reads_the_line": """
import argparse
argparse.ArgumentParser().parse_args()
def main(folder):
    pass
""",
    "aborts": """
import os, sys
def main(folder):
    print("terminate called\\n  what():  no kernel\\nframe #0", file=sys.stderr, flush=True)
    os.abort()
""",
    "aborts_at_its_end": """
import atexit, os
def main(folder):
    atexit.register(os.abort)
""",
    "gives_up": """
import os
def main(folder):
    os._exit(0)
""",
    "sleeps": """
import time
def main(folder, *words):
    (folder / "began").touch()
    time.sleep(60)
""",
    "takes_too_much": """
import os, signal
def main(folder, *words):
    os.kill(os.getpid(), signal.SIGKILL)
""",
    "keeps_the_lock": """
import re
def main(folder):
    (folder / "began").touch()
    re.match("(a+)+$", 60 * "a" + "b")
""",
    "imports": """
import sys
def main(folder):
    import random, harness.cell
    random.Random(0)
    assert "sitecustomize" not in sys.modules
""",
}


@pytest.fixture
def children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    code = tmp_path / "code"
    code.mkdir()
    for name, text in CHILDREN.items():
        (code / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(code))
    return code


@pytest.fixture(params=["afresh", "forked"], autouse=True)
def warm(request: pytest.FixtureRequest, children: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A child behaves the same whichever way it is started."""
    monkeypatch.setattr(child, "_forges", [])  # the run's own
    with warm_children("json") if request.param == "forked" else contextlib.nullcontext():
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "own").mkdir()
    return tmp_path / "own"


def test_a_child_works_in_its_own_folder(children: Path, folder: Path) -> None:
    assert run_child("works", folder, "one", "two", timeout_s=60) is None
    assert (folder / "said").read_text() == f"one two {folder}"


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("leaves", "SystemExit: no such thing"),
        ("reads_the_line", None),
        ("aborts", "its process ended with signal 6 (SIGABRT); its last words: what():  no kernel"),
        ("aborts_at_its_end", None),
        ("gives_up", "its process ended with exit code 0"),
        ("absent", "ModuleNotFoundError: No module named 'absent'"),
    ],
)
def test_its_end_is_told_by_its_cause(module: str, words: str | None, children: Path, folder: Path) -> None:
    assert run_child(module, folder, timeout_s=60) == words


def test_a_long_message_keeps_its_end(children: Path, folder: Path) -> None:
    told = run_child("raises", folder, timeout_s=60) or ""
    assert told.startswith("KeyError: 'weight of a long story")
    assert told.endswith("and its end'")
    assert len(told) < 450


def test_a_hang_ends_at_its_time_limit(children: Path, folder: Path) -> None:
    assert run_child("keeps_the_lock", folder, timeout_s=2) == (
        "no answer within the time limit of 2 s; its process was ended"
    )


def test_what_lies_in_the_users_folder_is_not_imported(
    children: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = tmp_path / "desk"
    for name in ("random.py", "sitecustomize.py", "harness/__init__.py", "udacisense/__init__.py"):
        (desk / name).parent.mkdir(parents=True, exist_ok=True)
        (desk / name).write_text("raise SystemExit(7)")
    monkeypatch.chdir(desk)
    monkeypatch.setattr(sys, "path", ["", str(desk), *sys.path])
    assert run_child("imports", folder, timeout_s=60) is None


@pytest.mark.parametrize("module", ["sleeps", "keeps_the_lock"])
def test_a_child_ends_with_its_parent_whatever_it_is_at(
    module: str, children: Path, folder: Path, request: pytest.FixtureRequest
) -> None:
    code = "import sys\nfrom pathlib import Path\nfrom udacisense.base.child import run_child\n"
    code += f"run_child({module!r}, Path(sys.argv[1]), timeout_s=60)"
    if request.node.callspec.params["warm"] == "forked":
        code = code.replace("import run_child", "import run_child, warm_children")
        code = code.replace("run_child(", "with warm_children(): run_child(")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(children), str(REPOSITORY)])}
    parent = subprocess.Popen([sys.executable, "-c", code, str(folder)], env=env)
    _wait_for(folder / "began", parent)
    started = psutil.Process(parent.pid).children(recursive=True)
    assert started
    os.kill(parent.pid, signal.SIGHUP)  # the terminal was closed
    parent.wait()
    _, alive = psutil.wait_procs(started, timeout=30)
    assert not alive


def _working_in(processes: list[psutil.Process]) -> Iterator[Path]:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):  # or a zombie: it has ended
            yield Path(process.cwd())


def test_an_interrupt_ends_the_children_and_starts_no_other(children: Path, tmp_path: Path) -> None:
    folders = [tmp_path / str(n) for n in range(3)]
    for one in folders:
        one.mkdir()
    futures: list[Future[str | None]] = []

    def twice(one: Path) -> str | None:
        try:
            return run_child("sleeps", one, timeout_s=60)
        finally:
            run_child("works", one, timeout_s=60)  # as one that tries again what failed

    def interrupted() -> None:
        with child_pool(2) as pool:
            futures.extend(pool.submit(twice, one) for one in folders)
            _wait_for(folders[0] / "began")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert isinstance(futures[0].exception(), StoppedError)
    assert futures[2].cancelled()
    assert not [one for one in folders if (one / "said").exists()]
    assert not [
        folder for folder in _working_in(psutil.Process().children(recursive=True)) if folder.parent == tmp_path
    ]


def test_a_thread_of_another_pool_is_not_stopped(children: Path, folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt), child_pool(1):
        raise KeyboardInterrupt
    with child_pool(1) as pool:
        assert pool.submit(run_child, "works", folder, timeout_s=60).result() is None


@pytest.mark.parametrize(
    ("reader", "cause"),
    [
        ("sleeps", "no answer within the time limit of 1 s"),
        ("takes_too_much", r"its process ended with signal 9 \(SIGKILL\), as a system ends what takes its last memory"),
    ],
)
def test_a_file_is_not_blamed_for_what_ended_its_reader(
    children: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, reader: str, cause: str
) -> None:
    monkeypatch.setattr(child, "READ_S", 1 if reader == "sleeps" else 60)
    (tmp_path / "notes.x").write_text("a file that is right, and looks like text")
    with pytest.raises(LoadError, match=rf"notes\.x could not be read: {cause}.*; if the file is damaged"):
        read_in_child(ModelSpec, reader, tmp_path / "notes.x")


def _wait_for(path: Path, process: subprocess.Popen[bytes] | None = None) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process is None or process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
