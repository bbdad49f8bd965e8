"""The whole report: its chapters, in order."""

from __future__ import annotations

from harness.report.blocks import Chapter
from harness.report.chapters.latency import latency_chapter
from harness.report.chapters.pipelines import pipelines_chapter
from harness.report.chapters.provenance import provenance_chapter
from harness.report.chapters.search import search_chapter
from harness.report.chapters.summary import summary_chapter
from harness.report.chapters.techniques import techniques_chapter
from harness.report.chapters.variants import variants_chapter
from harness.report.collect import Evidence
from udacisense.data.images import DataSet


def chapters(evidence: Evidence, dataset: DataSet | None) -> list[Chapter]:
    """Return the chapters in the order of the page; one without records is left out."""
    made = (
        summary_chapter(evidence),
        pipelines_chapter(evidence),
        techniques_chapter(evidence),
        search_chapter(evidence),
        variants_chapter(evidence, dataset),
        latency_chapter(evidence),
        provenance_chapter(evidence),
    )
    return [chapter for chapter in made if chapter.blocks]
