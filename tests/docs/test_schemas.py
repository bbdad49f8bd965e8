"""The published JSON Schemas are those of the types, and every record that other programs read has one."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from harness.device.contract import OrderFailure
from harness.report.collect import Evidence
from harness.verify.locate.job import Found


@pytest.fixture(scope="module")
def maker(repository: Path) -> dict[str, Any]:
    return runpy.run_path(str(repository / "docs" / "make_schemas.py"))


def test_schemas_are_up_to_date(repository: Path, maker: dict[str, Any]) -> None:
    kept = {path.name: path.read_text(encoding="utf-8") for path in (repository / "docs" / "schemas").glob("*.json")}
    assert kept == maker["schemas"](), "run: .venv/bin/python docs/make_schemas.py"


def test_what_the_report_reads_and_the_app_writes_has_a_schema(maker: dict[str, Any]) -> None:
    """Each field of the evidence is ``tuple[tuple[Path, RECORD], ...]``."""
    read = {get_args(get_args(hint)[0])[1] for hint in get_type_hints(Evidence).values()}
    assert len(read) == 10
    assert {*read, OrderFailure, Found} <= set(maker["RECORDS"].values())


def test_the_page_links_and_shows_every_schema(repository: Path, maker: dict[str, Any]) -> None:
    page = (repository / "docs" / "reference" / "schemas.md").read_text(encoding="utf-8")
    names = {f"{name}.schema.json" for name in maker["RECORDS"]}
    assert set(re.findall(r"\]\(\.\./schemas/([^)]+)\)", page)) == names
    assert set(re.findall(r'--8<-- "docs/schemas/([^"]+)"', page)) == names
    for record in maker["RECORDS"].values():
        file_name = getattr(record, "FILE_NAME", None)
        assert file_name is None or file_name in page, f"the page does not name {file_name}"
