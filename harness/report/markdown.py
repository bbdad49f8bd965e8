"""The report for a pull request, and for machines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from typing import Any

from harness.bench.advice import cautions, recommend
from harness.bench.cascade import with_ways
from harness.bench.instructions import disagreements
from harness.bench.ranking import Row
from harness.report.blocks import Block, Heat, Part, Prose, Verdicts
from harness.report.chapters.document import chapters
from harness.report.chapters.latency import state_ranges
from harness.report.collect import Evidence, Ranked
from harness.report.table import Table, markdown_cell, markdown_line, markdown_table
from udacisense import __version__
from udacisense.base.display import now_utc


def to_markdown(evidence: Evidence, *, title: str) -> str:
    """Return the document as Markdown: without pictures, images and what the page folds away."""
    parts = [f"# {markdown_cell(title)}", f"Made {now_utc()} by udacisense {__version__}."]
    for chapter in chapters(evidence, None):
        parts += [f"## {markdown_cell(chapter.title)}", *_shown(chapter.blocks, "###")]
    return "\n\n".join(parts) + "\n"


def _shown(blocks: Sequence[Block], heading: str) -> Iterator[str]:
    for block in blocks:
        match block:
            case Prose():
                yield _prose(block.text)
            case Verdicts():
                yield "\n".join(f"- {markdown_line(one.text)}" for one in block.sentences)
            case Table():
                yield f"{heading} {markdown_cell(block.title)}"
                yield markdown_table(block)
            case Heat():
                rows = tuple((name, *(text for text, _ in cells)) for name, cells in block.rows)
                table = Table(title=block.title, columns=(block.corner, *block.columns), rows=rows, notes=(block.says,))
                yield from _shown([table], heading)
            case Part(is_open=True):
                yield f"{heading} {markdown_cell(block.title)}"
                yield from _shown(block.blocks, f"{heading}#")


def _prose(text: str) -> str:
    """Return paragraphs and lists, as the page has them; everything else stays text."""
    lines = text.split("\n")
    return "\n".join(f"- {markdown_line(e[2:])}" if e.startswith("- ") else markdown_line(e) for e in lines)


def to_json_text(evidence: Evidence, *, title: str) -> str:
    """Return the figures as JSON: records as they are, and latencies with their statistics but no raw samples."""
    value: dict[str, Any] = {
        "schema_version": 1,
        "title": title,
        "created_utc": now_utc(),
        **{
            kind.name: [{"path": str(path), **asdict(made)} for path, made in getattr(evidence, kind.name)]
            for kind in fields(evidence)
            if kind.name != "benches"
        },
        "latencies": [_latency(sweep) for one in evidence.machines for sweep in one.sweeps],
    }
    return json.dumps(value, indent=2, default=str) + "\n"


def _latency(sweep: Ranked) -> dict[str, Any]:
    measured, rows = sweep.measured, sweep.rows
    return {
        "path": str(sweep.path),
        "host": asdict(measured.host),
        "rows": [_latency_entry(row) for row in rows],
        "states": state_ranges(measured),
        "instructions": [asdict(one) for one in with_ways(measured.instructions, measured.cascades, sweep.verified)],
        "disagreements": disagreements(measured, rows),
        "notes": cautions(measured, rows),
        "recommendation": recommend(measured, rows, sweep.verified),
    }


def _latency_entry(row: Row) -> dict[str, Any]:
    values = asdict(row)
    cell = values.pop("cell")
    return {"cell": cell["id"], "threads": cell["threads"], "engine": cell["engine"], **values}
