"""A headless Chromium, where the machine has one."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from tests_cache import CACHE


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A running browser; skipped where Chromium or playwright is absent."""
    program = os.environ.get("UDACISENSE_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium, or set UDACISENSE_CHROMIUM to its path")
    try:
        api = importlib.import_module("playwright.sync_api")
    except ModuleNotFoundError:
        pytest.skip("playwright is not installed: pip install -e '.[browser]'")
    with api.sync_playwright() as playwright:
        # A container's root has no sandbox to enter; the pages are our own. A browser keeps things in its user's home.
        environment = {**os.environ, "HOME": str(tmp_path_factory.mktemp("chromium"))}
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"], env=environment)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core; skipped where it was not fetched."""
    path = CACHE / "axe.min.js"
    if not path.is_file():
        pytest.skip("axe-core was not fetched: make browser")
    return path.read_text(encoding="utf-8")
