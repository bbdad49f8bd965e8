"""Each technique by itself."""

from __future__ import annotations

from harness.report.collect import Evidence
from harness.report.html.blocks import Block, Chapter, Gallery, Grid, Part, Prose
from harness.report.html.plots.accuracy import confusion_heat, stage_heat, top1_picture
from harness.report.sections import TECHNIQUES_TEXT
from harness.report.table import Table
from udacisense.base.display import percent
from udacisense.base.records import StageRecord
from udacisense.pipeline.techniques import TechniquesRecord


def techniques_chapter(evidence: Evidence) -> Chapter:
    """Return a part a record."""
    from harness.report.techniques import techniques_table  # it writes Markdown with this package's cells

    parts = tuple(
        Part(title=str(path.parent), blocks=_blocks(found, techniques_table(found), name=f"techniques{i}"))
        for i, (path, found) in enumerate(evidence.techniques)
    )
    return Chapter(
        anchor="techniques", title="Techniques", blocks=(Prose(text=TECHNIQUES_TEXT), *parts) if parts else ()
    )


def _blocks(found: TechniquesRecord, table: Table, *, name: str) -> tuple[Block, ...]:
    models = [("baseline", found.baseline), *((row.name, row.figures) for row in found.results)]
    heat = stage_heat([(named, figures.per_class) for named, figures in models], title="Accuracy per class")
    matrices = [found.baseline_confusion, *(row.confusion for row in found.results)]
    confusions = tuple(
        confusion_heat(matrix, found.class_names, title=f"Confusion of {named}", figures=_figures(figures))
        for (named, figures), matrix in zip(models, matrices, strict=True)
    )
    return (
        *((Gallery(pictures=(top1_picture(found, name=name),)),) if found.results else ()),
        Grid(table=table),
        *(() if heat is None else (heat,)),
        Part(title="Confusion matrices", blocks=confusions, is_open=False),
    )


def _figures(figures: StageRecord) -> str:
    return f"{figures.n_eval_images} images, top-1 {percent(figures.top1_fraction)}."
