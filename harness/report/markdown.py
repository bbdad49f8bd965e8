"""The report for a pull request, and for machines."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from harness.advice import recommend
from harness.instructions import disagreements
from harness.ranking import Row
from harness.report.collect import Evidence
from harness.report.sections import notes_of, ranked, sections
from harness.report.states import state_ranges
from harness.report.text import visible
from harness.tables import Table
from harness.types import BenchSet
from udacisense import __version__

# Whitespace apart, text falls into `code`, characters that are neither text nor code, and runs of the rest.
_PIECE = re.compile(r"`[^`|<>&]+`|[`|<>&]|[^\s`|<>&]+")
_CHARACTERS = {"`": "&#96;", "|": "\\|", "<": "&lt;", ">": "&gt;", "&": "&amp;"}
# What becomes a link, a mention, a reference or a formula by itself, a backslash before it or not; in code it does not.
_LIVE = re.compile(r"(?<![a-z0-9_])@|@[\w-]*\.|@[\da-f]{7}|[#!]\d|://|\$|www\.|GH-\d", re.IGNORECASE)
_MARKUP = re.compile(r"[\\\[\]*~#]|(?<![^\W_])_|_(?![^\W_])")  # an underscore within a word is none
_BLOCK = re.compile(r"^(\d{0,9})([-+=.)])(?=[-+=\s]|$)")  # begins a list, or makes a heading of the line above


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


def markdown_cell(value: str | None) -> str:
    """Return text that stays within its table cell and is no markup but `code`; None is a dash.

    Links, images, tags and mentions stay text too: a name out of a record must not fetch or call anybody.
    """
    return "-" if value is None else _PIECE.sub(_piece, " ".join(visible(value).split()))


def _piece(found: re.Match[str]) -> str:
    text = found[0]
    if text in _CHARACTERS:
        return _CHARACTERS[text]
    if text.startswith("`"):
        return text
    return f"`{text}`" if _LIVE.search(text) else _MARKUP.sub(r"\\\g<0>", text)


def markdown_table(table: Table) -> str:
    """Return a table's rows, and its notes as a list below them, without its title; every text stays text."""
    if table.rows:
        rows = (table.columns, ("---",) * len(table.columns), *table.rows)
        text = "\n".join("| " + " | ".join(map(markdown_cell, row)) + " |" for row in rows)
    else:
        text = "Nothing to list."
    notes = "\n".join(f"- {_line(note)}" for note in table.notes)
    return f"{text}\n\n{notes}" if notes else text


def _line(text: str) -> str:
    """Return text that may stand at the beginning of a line."""
    return _BLOCK.sub(r"\1\\\2", markdown_cell(text))


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
