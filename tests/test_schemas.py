"""The published JSON Schemas are those of the types."""

from __future__ import annotations

import runpy
from pathlib import Path


def test_schemas_are_up_to_date(repository: Path) -> None:
    made = runpy.run_path(str(repository / "docs" / "make_schemas.py"))["schemas"]()
    kept = {path.name: path.read_text(encoding="utf-8") for path in (repository / "docs" / "schemas").glob("*.json")}
    assert kept == made, "run: .venv/bin/python docs/make_schemas.py"
