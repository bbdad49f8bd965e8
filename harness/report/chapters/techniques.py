"""Each technique by itself."""

from __future__ import annotations

from harness.report.blocks import Block, Chapter, Gallery, Part, Prose
from harness.report.collect import Evidence
from harness.report.plots.accuracy import confusion_heat, stage_heat, top1_picture
from harness.report.techniques import techniques_table
from udacisense.base.display import percent
from udacisense.base.records import StageRecord
from udacisense.pipeline.techniques import TechniquesRecord

_TEXT = (
    "Each technique by itself, from the same baseline. The time ratio is to the baseline, timed by turns with it; "
    "McNemar's p is of the two models' hits on the same images."
)


def techniques_chapter(evidence: Evidence) -> Chapter:
    """Return a part a record."""
    parts = tuple(Part(title=str(path.parent), blocks=_blocks(found)) for path, found in evidence.techniques)
    return Chapter(anchor="techniques", title="Techniques", blocks=(Prose(text=_TEXT), *parts) if parts else ())


def _blocks(found: TechniquesRecord) -> tuple[Block, ...]:
    models = [("baseline", found.baseline), *((row.name, row.figures) for row in found.results)]
    heat = stage_heat([(named, figures.per_class) for named, figures in models], title="Accuracy per class")
    matrices = [found.baseline_confusion, *(row.confusion for row in found.results)]
    confusions = tuple(
        confusion_heat(matrix, found.class_names, title=f"Confusion of {named}", figures=_figures(figures))
        for (named, figures), matrix in zip(models, matrices, strict=True)
    )
    return (
        *((Gallery(pictures=(top1_picture(found),)),) if found.results else ()),
        techniques_table(found),
        *(() if heat is None else (heat,)),
        Part(title="Confusion matrices", blocks=confusions, is_open=False),
    )


def _figures(figures: StageRecord) -> str:
    return f"{figures.n_eval_images} images, top-1 {percent(figures.top1_fraction)}."
