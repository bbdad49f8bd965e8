"""What a search tried and found."""

from __future__ import annotations

from harness.report.blocks import Block, Chapter, Part, Prose, gallery
from harness.report.collect import Evidence
from harness.report.plots.search import search_picture
from harness.report.table import Table
from harness.report.techniques import as_markdown
from udacisense.base.display import megabytes, percent
from udacisense.pipeline.search.record import SearchRecord
from udacisense.pipeline.search.space import student_options

_SHOWN = 20


def search_chapter(evidence: Evidence) -> Chapter:
    """Return a part a record."""
    parts = tuple(Part(title=str(path.parent), blocks=_blocks(found)) for path, found in evidence.searches)
    return Chapter(anchor="search", title="Search", blocks=parts)


def tried_table(found: SearchRecord) -> Table:
    """One row a network that was trained to its end, the best first."""
    whole = [row for row in found.tried if row.outcome == "finished"]
    whole.sort(key=lambda row: (row.validation_loss or 0.0, row.trial))
    halved = sum(row.outcome == "halved" for row in found.tried)
    failed = sum(row.outcome == "failed" for row in found.tried)
    rows = tuple(
        (
            str(row.trial),
            _network(row.model.options),
            f"{row.cost.parameters:,}",
            megabytes(row.cost.file_bytes),
            f"{row.cost.arm_instructions / 1e6:.2f} M",
            f"{row.validation_loss:.4f}",
            percent(row.validation_top1_fraction),
        )
        for row in whole[:_SHOWN]
    )
    return Table(
        title=f"Short trainings, {found.epochs} epochs",
        columns=("trial", "network", "parameters", "file", "ARM, est.", "validation loss", "top-1"),
        rows=rows,
        notes=(
            f"{len(found.tried)} networks were trained: {len(whole)} to the end, {halved} halved, {failed} failed. "
            f"{found.n_untrained} more broke a limit or came twice, and were not trained.",
        ),
    )


def finalists_table(found: SearchRecord) -> Table:
    """One row a finalist and seed."""
    by_trial, best = {row.trial: row for row in found.tried}, found.best
    notes = list(dict.fromkeys(f"Not counted: {row.arm_reason}." for row in found.finalists if row.arm_reason))
    if best is not None:
        notes.insert(0, f"The best by the mean of its validation losses is network {best.trial}.")
    return Table(
        title=f"Finalists, pipeline {found.pipeline}",
        columns=(
            "trial",
            "network",
            "seed",
            "validation loss",
            "test top-1",
            "points",
            "file",
            "ARM, est.",
            "ARM, counted",
        ),
        rows=tuple(
            (
                str(row.trial),
                _network(by_trial[row.trial].model.options),
                str(row.seed),
                f"{row.validation_loss:.4f}",
                percent(row.figures.top1_fraction),
                f"{100 * (row.figures.top1_fraction - found.baseline.top1_fraction):+.1f}",
                megabytes(row.figures.file_bytes),
                f"{by_trial[row.trial].cost.arm_instructions / 1e6:.2f} M",
                None if row.arm_instructions is None else f"{row.arm_instructions / 1e6:.2f} M",
            )
            for row in found.finalists
        ),
        notes=tuple(notes),
    )


def search_markdown(found: SearchRecord) -> str:
    """Return the tables for a page."""
    return "\n".join(map(as_markdown, _tables(found)))


def _tables(found: SearchRecord) -> tuple[Table, Table]:
    return finalists_table(found), tried_table(found)


def _network(options: dict[str, str | int | float | bool | None]) -> str:
    """Return a network as a person reads it: ``c16 i20x4s2 at 32 px``."""
    if "blocks" in options:
        return f"{options['blocks']} at {options['resolution_px']} px"
    return f"width {options['width_mult']} at {options['resolution_px']} px"


def _blocks(found: SearchRecord) -> tuple[Block, ...]:
    best = found.best
    told = (
        ()
        if best is None
        else (Prose(text=f"The best network is compressed by `{' '.join(student_options(best.model))}`."),)
    )
    return (*told, *gallery([search_picture(found)]), *_tables(found))
