"""A home of the tests' own: what the product keeps for its user, tests neither find nor leave behind.

A plugin of pytest that ``tests/conftest.py`` names. Every process that runs tests, each worker of a parallel run too,
gets an empty home folder; a test that leaves something there fails, by name.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests_cache import CACHE

HOME = Path(tempfile.mkdtemp(prefix="udacisense-home-"))

os.environ.setdefault("GIT_CONFIG_GLOBAL", str(Path.home() / ".gitconfig"))  # says which repositories git may read
# Set as this module is imported: libraries read some of them when they are.
os.environ["HOME"] = str(HOME)
for _name in ("UDACISENSE_CACHE", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"):
    os.environ.pop(_name, None)
os.environ["RUSTUP_HOME"] = str(CACHE / "rustup")  # pip asks rustc for its version
os.environ["MPLCONFIGDIR"] = str(CACHE / "matplotlib")  # its list of fonts takes seconds to make
# Java asks the system for the user's home, and not the environment.
os.environ["MAVEN_OPTS"] = f"{os.environ.get('MAVEN_OPTS', '')} -Dmaven.repo.local={CACHE / 'maven'}".strip()


def take_away() -> list[str]:
    """Return what lies in the home, and remove it."""
    found = sorted(str(path.relative_to(HOME)) for path in HOME.rglob("*"))
    if found:
        shutil.rmtree(HOME)
        HOME.mkdir()
    return found


@pytest.fixture(autouse=True)
def untouched_home() -> Iterator[None]:
    """Whatever a test, its fixtures and their processes left in the home is the test's failure."""
    yield
    left = take_away()
    assert not left, f"left in the user's home: {', '.join(left)}"


def pytest_unconfigure() -> None:
    shutil.rmtree(HOME, ignore_errors=True)
