"""Every exported file: its size, its precision, and how it answers."""

from __future__ import annotations

from pathlib import Path

from exporters.bundle.manifest import Manifest
from harness.host import host_name
from harness.records import MeasurementSet
from harness.report.blocks import Block, Chapter, Part, Prose, gallery
from harness.report.chapters.flips import flip_blocks
from harness.report.collect import Evidence
from harness.report.gate import open_checks_table
from harness.report.plots.accuracy import agreement_picture, class_heat, shift_heats, size_picture
from harness.report.tables import beyond_table, certainty_table, variants_table, verification_table
from udacisense.data.images import DataSet

_TEXT = (
    "Sizes are decimal: 1 MB is 1,000,000 bytes. Numbers are held against the eager source of the same precision, "
    "decisions (agreement, flips) against the float32 master. The runner `mil` computes a Core ML file's program on "
    "this host: reference semantics, no proof of Apple's own kernels."
)


def variants_chapter(evidence: Evidence, dataset: DataSet | None) -> Chapter:
    """Return a part a bundle, then what was verified of bundles that are not here."""
    parts: list[Block] = [_bundle_part(evidence, path, manifest, dataset) for path, manifest in evidence.bundles]
    lost = [made for _, made in evidence.verifications if evidence.bundle_of(made.bundle_sha256) is None]
    parts += [
        Part(
            title=f"{made.bundle}, which is not among the records",
            blocks=(*gallery([agreement_picture(made)]), *_verified(made, None, None)),
        )
        for made in lost
    ]
    parts += [open_checks_table(path, gate) for path, gate in evidence.gates]
    return Chapter(anchor="variants", title="Exported files", blocks=(Prose(text=_TEXT), *parts) if parts else ())


def _bundle_part(evidence: Evidence, path: Path, manifest: Manifest, dataset: DataSet | None) -> Part:
    verified = evidence.verifications_of(path)
    blocks: list[Block] = [variants_table(manifest, title="Files")]
    pictures = [size_picture(manifest.variants)]
    pictures += [agreement_picture(made) for made in verified]
    blocks += gallery(pictures)
    for made in verified:
        blocks += _verified(made, (path, manifest), dataset)
    if not verified:
        blocks.append(Prose(text="Not verified: no record of this very bundle was found.", tone="open"))
    return Part(title=f"{manifest.name} ({path.parent})", blocks=tuple(blocks))


def _verified(made: MeasurementSet, bundle: tuple[Path, Manifest] | None, dataset: DataSet | None) -> tuple[Block, ...]:
    heat = class_heat(made, title=f"Accuracy per class ({made.inputs})")
    tables = (certainty_table(made, title=f"Confidence on {made.inputs}"), beyond_table(made))
    return (
        verification_table(made, title=f"Verification on {made.inputs} ({host_name(made.host)})"),
        *(table for table in tables if table is not None),
        *shift_heats(made),
        *(() if heat is None else (heat,)),
        *flip_blocks(made, bundle, dataset),
    )
