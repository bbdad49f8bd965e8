"""Fixtures that every room's tests may ask for, and how tests are spread over processes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from udacisense.base.child import run_child, warm_children

pytest_plugins = ["own_home"]

REPOSITORY = Path(__file__).resolve().parent.parent
# Minutes of one test or of one file: begun first, so that no process is left alone with them at the end.
LONG = ("docs", "android", "fuzz", "slow", "browser", "adb")
APART = ("docs", "fuzz")  # their tests share nothing that was made for one file


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Under ``-n``, keep the tests of a file together, since they share what was made for it."""
    if config.getoption("dist", "no") != "loadgroup":
        return
    for item in items:
        if not any(item.get_closest_marker(name) for name in (*APART, "xdist_group")):
            item.add_marker(pytest.mark.xdist_group(item.path.relative_to(REPOSITORY).as_posix()))
    items.sort(key=lambda item: not any(item.get_closest_marker(name) for name in LONG))


@pytest.fixture(scope="session", autouse=True)
def children_are_forked() -> Iterator[None]:
    """One process loads what the tests' children need; how one starts afresh is tested with ``base/child.py``."""
    with (
        warm_children(
            "exporters.worker",
            "harness.cell.worker",
            "harness.verify.inside.worker",
            "harness.verify.locate.worker",
            "harness.runners.mil.program",
            "onnx",
            "onnxruntime",
            "coremltools",
        ),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr("harness.cell.run.run_child", _run_forked)
        yield


def _run_forked(*arguments: Any, **options: Any) -> str | None:
    """Start what is timed like the rest: no test asserts a time. ``tests/harness/cell`` starts cells as users do."""
    return run_child(*arguments, **{**options, "shares_cores": True})


Once = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Make a folder once for all processes of a run: the first that asks makes it, the others wait and take it.

    Called with a name and a function that fills the folder; what it made is not to be changed.
    """
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "once"

    def take(name: str, make: Callable[[Path], object]) -> Path:
        shared.mkdir(exist_ok=True)
        folder, whole = shared / name, shared / f"{name}.whole"
        with FileLock(shared / f"{name}.lock"):
            if not whole.exists():
                shutil.rmtree(folder, ignore_errors=True)  # what a failed attempt left
                folder.mkdir()
                make(folder)
                whole.touch()
        return folder

    return take


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def household() -> Path:
    """The real household images: ``UDACISENSE_DATA``, else beside the repository; skipped where absent."""
    folder = Path(os.environ.get("UDACISENSE_DATA") or REPOSITORY.parent / "shared" / "data" / "household")
    if not (folder / "train").is_dir():
        pytest.skip(f"the household images are not at {folder}; set UDACISENSE_DATA to their folder")
    return folder
