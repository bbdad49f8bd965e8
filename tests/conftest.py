"""Fixtures that every room's tests may ask for."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

# What a machine happens to have set up must not decide what a test sees: all but the Android tests start with none.
USERS_CACHE = os.environ.get("UDACISENSE_CACHE")
os.environ["UDACISENSE_CACHE"] = tempfile.mkdtemp(prefix="udacisense-no-runtimes-")


@pytest.fixture(scope="session")
def users_cache() -> str | None:
    """The cache folder that the user set, or None for the default one."""
    return USERS_CACHE


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
