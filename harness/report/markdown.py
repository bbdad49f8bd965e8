"""The report for a pull request, and for machines."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from harness.bench.advice import recommend
from harness.bench.instructions import disagreements
from harness.bench.ranking import Row
from harness.records import BenchSet
from harness.report.collect import Evidence
from harness.report.sections import notes_of, ranked, sections
from harness.report.table import _line, markdown_cell, markdown_table
from harness.report.tables import state_ranges
from udacisense import __version__


def to_markdown(evidence: Evidence, *, title: str) -> str:
    """Return the document as Markdown."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # Markdown, not HTML: text is escaped by the filters below.
    environment = Environment(
        loader=PackageLoader("harness.report"),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701
    )
    environment.filters |= {"cell": markdown_cell, "prose": _prose, "table": markdown_table}
    template = environment.get_template("report.md.j2")
    return template.render(title=title, created_utc=now_utc(), version=__version__, sections=sections(evidence))


def _prose(text: str) -> str:
    """Return paragraphs and lists, as the HTML report has them; everything else stays text."""
    return "\n".join(f"- {_line(line[2:])}" if line.startswith("- ") else _line(line) for line in text.split("\n"))


def to_json_text(evidence: Evidence, *, title: str) -> str:
    """Return the figures as JSON: records as they are, and latencies with their statistics but no raw samples."""
    value: dict[str, Any] = {
        "schema_version": 1,
        "title": title,
        "created_utc": now_utc(),
        "artifacts": [_entry(path, artifact) for path, artifact in evidence.artifacts],
        "evaluations": [_entry(path, evaluation) for path, evaluation in evidence.evaluations],
        "runs": [_entry(path, run) for path, run in evidence.runs],
        "techniques": [_entry(path, found) for path, found in evidence.techniques],
        "bundles": [_entry(path, manifest) for path, manifest in evidence.bundles],
        "verifications": [_entry(path, verification) for path, verification in evidence.verifications],
        "gates": [_entry(path, gate) for path, gate in evidence.gates],
        "latencies": [_latency(evidence, path, measured) for path, measured in evidence.benches],
    }
    return json.dumps(value, indent=2, default=str) + "\n"


def _entry(path: Path, made: Any) -> dict[str, Any]:
    return {"path": str(path), **asdict(made)}


def _latency(evidence: Evidence, path: Path, measured: BenchSet) -> dict[str, Any]:
    rows = ranked(evidence, measured)
    return {
        "path": str(path),
        "host": asdict(measured.host),
        "rows": [_latency_entry(row) for row in rows],
        "states": state_ranges(measured),
        "instructions": [asdict(counted) for counted in measured.instructions],
        "disagreements": disagreements(measured, rows),
        "notes": notes_of(measured, rows),
        "recommendation": recommend(measured, rows, evidence.own_host_first(measured.host)),
    }


def _latency_entry(row: Row) -> dict[str, Any]:
    values = asdict(row)
    cell = values.pop("cell")
    return {"cell": cell["id"], "threads": cell["spec"]["threads"], "engine": cell["spec"]["engine"], **values}


def now_utc() -> str:
    """Return the time as ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
