"""The techniques' record as tables."""

from __future__ import annotations

from harness.report.table import Table, markdown_cell, markdown_table
from udacisense.base.display import change, megabytes, percent
from udacisense.pipeline.techniques import TechniquesRecord

_COLUMNS = (
    "technique",
    "size",
    "change",
    "parameters, not zero",
    "MACs",
    "time ratio",
    "top-1",
    "95 %",
    "points",
    "McNemar p",
    "top-5",
)


def techniques_table(found: TechniquesRecord) -> Table:
    """One row a technique: what it costs and what it gives, against the baseline."""
    base = found.baseline
    rows: list[tuple[str | None, ...]] = [
        (
            "baseline",
            megabytes(base.file_bytes),
            None,
            f"{base.parameters:,}",
            _millions(found.baseline_macs),
            "1.00",
            percent(base.top1_fraction),
            None,
            None,
            None,
            percent(base.told_top5),
        )
    ]
    notes = []
    for row in found.results:
        figures = row.figures
        low, high = row.top1_interval
        rows.append(
            (
                row.name,
                megabytes(figures.file_bytes),
                change(figures.file_bytes, base.file_bytes),
                f"{figures.nonzero_parameters:,}",
                _millions(row.macs),
                f"{row.latency_ratio:.2f}",
                percent(figures.top1_fraction),
                f"{100 * low:.1f}-{100 * high:.1f}",
                f"{100 * (figures.top1_fraction - base.top1_fraction):+.1f}",
                f"{row.mcnemar_p:.2g}",
                percent(figures.told_top5),
            )
        )
        packed = figures.config.get("gzip_bytes")
        if isinstance(packed, int):
            notes.append(f"{row.name}: zeros make no dense file smaller; after gzip it is {megabytes(packed)}.")
    return Table(title="Techniques", columns=_COLUMNS, rows=tuple(rows), notes=tuple(notes))


def per_class_table(found: TechniquesRecord) -> Table:
    """One row a class: top-1 of the baseline and of each technique, in percent."""
    records = [("baseline", found.baseline), *((row.name, row.figures) for row in found.results)]
    rows = tuple(
        (label, *(_hundredth(figures.per_class.get(label)) for _, figures in records)) for label in found.class_names
    )
    return Table(title="Top-1 by class, %", columns=("class", *(name for name, _ in records)), rows=rows)


def as_markdown(table: Table) -> str:
    """Return a table for a page of documentation; what a record names in it stays text."""
    return f"**{markdown_cell(table.title)}**\n\n{markdown_table(table)}\n"


def _millions(count: int | None) -> str | None:
    return None if count is None else f"{count / 1e6:.1f} M"


def _hundredth(fraction: float | None) -> str | None:
    return None if fraction is None else f"{100 * fraction:.0f}"
