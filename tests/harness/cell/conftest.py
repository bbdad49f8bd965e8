"""Cells as users start them."""

from __future__ import annotations

import pytest

from udacisense.base.child import run_child


@pytest.fixture(autouse=True)
def cells_start_afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.cell.run.run_child", run_child)
