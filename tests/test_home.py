"""Tests leave the user's home and cache alone, and one that does not is found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import own_home
from tests_cache import CACHE

from harness.runtime.catalogue import cache_root

GUILTY = """
import subprocess, sys
from pathlib import Path

WRITE = "from pathlib import Path; p = Path.home() / '.cache' / 'udacisense' / 'kept'; p.mkdir(parents=True)"

def test_writes_through_a_process():
    subprocess.run([sys.executable, "-c", WRITE], check=True)

def test_after_it_is_innocent():
    assert not list(Path.home().iterdir())
"""


def test_one_that_writes_into_the_home_fails_and_the_next_does_not(tmp_path: Path) -> None:
    (tmp_path / "test_guilty.py").write_text(GUILTY)
    words = ["-m", "pytest", "-q", "-p", "own_home", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", "."]
    environment = {**os.environ, "PYTHONPATH": str(Path(own_home.__file__).parent)}
    done = subprocess.run(
        [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "ERROR test_guilty.py::test_writes_through_a_process" in done.stdout
    assert "left in the user's home: .cache, .cache/udacisense, .cache/udacisense/kept" in done.stdout
    assert "2 passed, 1 error" in done.stdout


def test_what_the_product_keeps_for_its_user_would_lie_in_that_home() -> None:
    assert Path.home() == own_home.HOME
    assert cache_root().is_relative_to(own_home.HOME)
    assert not cache_root().is_relative_to(CACHE), "what tests keep is no runtime of the user's"
