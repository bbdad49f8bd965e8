"""Storages that a study may lie in."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import postgres
import pytest


@pytest.fixture(scope="session")
def server() -> Iterator[postgres.Server]:
    """A real PostgreSQL; skipped where it is not installed."""
    reason = postgres.unavailable()
    if reason is not None:
        pytest.skip(reason)
    made = postgres.Server()
    yield made
    made.remove()


@pytest.fixture(params=["journal", "sqlite", "postgresql"])
def study_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new storage of each kind."""
    makers: dict[str, Callable[[], str]] = {
        "journal": lambda: str(tmp_path / "study.journal"),
        "sqlite": lambda: f"sqlite:///{tmp_path}/study.db",
        "postgresql": lambda: request.getfixturevalue("server").new_database(f"d{uuid.uuid4().hex}"),
    }
    return makers[request.param]()
