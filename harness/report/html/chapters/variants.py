"""Every exported file: its size, its precision, and how it answers."""

from __future__ import annotations

from pathlib import Path

from exporters.bundle.manifest import Manifest
from harness.records import MeasurementSet
from harness.report.collect import Evidence
from harness.report.gate import open_checks_table
from harness.report.html.blocks import Block, Chapter, Grid, Part, Prose, gallery
from harness.report.html.images import flip_blocks
from harness.report.html.plots.accuracy import agreement_picture, class_heat, size_picture
from harness.report.sections import VERIFICATION_TEXT, host_name
from harness.report.tables import variants_table, verification_table
from udacisense.data.images import DataSet


def variants_chapter(evidence: Evidence, dataset: DataSet | None) -> Chapter:
    """Return a part a bundle, then what was verified of bundles that are not here."""
    parts: list[Block] = [
        _bundle_part(evidence, path, manifest, dataset, name=f"bundle{i}")
        for i, (path, manifest) in enumerate(evidence.bundles)
    ]
    lost = [made for _, made in evidence.verifications if evidence.bundle_of(made.bundle_sha256) is None]
    parts += [
        Part(
            title=f"{made.bundle}, which is not among the records", blocks=_verified(made, None, None, name=f"lost{i}")
        )
        for i, made in enumerate(lost)
    ]
    parts += [Grid(table=open_checks_table(path, gate)) for path, gate in evidence.gates]
    text = f"Sizes are decimal: 1 MB is 1,000,000 bytes. {VERIFICATION_TEXT}"
    return Chapter(anchor="variants", title="Exported files", blocks=(Prose(text=text), *parts) if parts else ())


def _bundle_part(evidence: Evidence, path: Path, manifest: Manifest, dataset: DataSet | None, *, name: str) -> Part:
    verified = evidence.verifications_of(path)
    blocks: list[Block] = [Grid(table=variants_table(manifest.variants, title="Files"))]
    pictures = [size_picture(manifest.variants, name=f"{name}-sizes")]
    pictures += [agreement_picture(made, name=f"{name}-agreement{i}") for i, made in enumerate(verified)]
    blocks += gallery(pictures)
    for made in verified:
        blocks += _verified(made, (path, manifest), dataset, name=None)
    if not verified:
        blocks.append(Prose(text="Not verified: no record of this very bundle was found.", tone="open"))
    return Part(title=f"{manifest.name} ({path.parent})", blocks=tuple(blocks))


def _verified(
    made: MeasurementSet, bundle: tuple[Path, Manifest] | None, dataset: DataSet | None, *, name: str | None
) -> tuple[Block, ...]:
    heat = class_heat(made, title=f"Accuracy per class ({made.inputs})")
    return (
        *(gallery([agreement_picture(made, name=name)]) if name is not None else ()),
        Grid(table=verification_table(made, title=f"Verification on {made.inputs} ({host_name(made.host)})")),
        *(() if heat is None else (heat,)),
        *flip_blocks(made, bundle, dataset),
    )
