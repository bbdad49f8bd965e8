"""Export a cascade into one bundle: a whole bundle of each member, and one manifest over all of them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from exporters.bundle.manifest import BundleMember, Manifest, joined_variants
from exporters.bundle.open import LABELS, write_zip
from exporters.export import export_bundle, file_records, refuse_foreign_folder
from exporters.formats.contract import ExportOptions
from exporters.source import ExportSource, golden_without_photos, source_from_artifact
from udacisense.base.display import now_utc
from udacisense.base.files import atomic_path, locked, sha256_file
from udacisense.base.records import write_record
from udacisense.measure.cascade import Cascade
from udacisense.models.cascade import load_cascade
from udacisense.zoo.table import resolve_artifact

if TYPE_CHECKING:
    from udacisense.data.images import DataSet

RECORD = f"reference/{Cascade.FILE_NAME}"


@dataclass(frozen=True, kw_only=True)
class CascadeSource:
    """A cascade, ready to be exported."""

    cascade: Cascade
    record: Path  # its cascade.json
    sources: tuple[ExportSource, ...]  # in the order of asking; all with the same golden images


def cascade_source(folder: Path, dataset: DataSet | None, *, allow_factory: str | None = None) -> CascadeSource:
    """Take a cascade's models, at the temperatures that its thresholds were chosen at.

    Args:
        folder: of the cascade, or the name of one that ships.
        dataset: as in :func:`exporters.source.source_from_artifact`.
        allow_factory: see there.

    Raises:
        InputError: it is no cascade, or a member or the data set does not fit.
        LoadError: a member's weights are not those that the cascade records.
    """
    cascade, places = load_cascade(folder, allow_factory=allow_factory)
    sources = [source_from_artifact(place, dataset, allow_factory=allow_factory) for place in places]
    golden = sources[0].golden
    if dataset is None:
        # Images that the members together are sure of.
        models, count = [one.model for one in sources], len(golden)
        golden = golden_without_photos(lambda x: sum(m(x) for m in models), sources[0].signature, count)
    named = zip(sources, cascade.members, strict=True)
    return CascadeSource(
        cascade=cascade,
        record=resolve_artifact(folder) / Cascade.FILE_NAME,
        sources=tuple(replace(s, name=m.name, confidence=m.confidence, golden=golden) for s, m in named),
    )


def export_cascade(
    source: CascadeSource,
    out_dir: Path,
    options: ExportOptions,
    *,
    zip: bool = False,  # noqa: A002 - the option's name on the command line
) -> Manifest:
    """Write a cascade's bundle; it appears whole or not at all, as in :func:`exporters.export.export_bundle`.

    Raises:
        InputError: see there.
    """
    refuse_foreign_folder(out_dir)
    with locked(out_dir), atomic_path(out_dir) as partial:
        partial.mkdir()
        made = [export_bundle(one, partial / one.name, options) for one in source.sources]
        shutil.copy(partial / made[0].name / LABELS, partial / LABELS)
        (partial / RECORD).parent.mkdir()
        shutil.copy(source.record, partial / RECORD)
        manifest = _joined(source.cascade, made, partial)
        write_record(partial / Manifest.FILE_NAME, manifest)
    if zip:
        write_zip(out_dir, out_dir.with_name(f"{out_dir.name}.zip"))
    return manifest


def _joined(cascade: Cascade, made: Sequence[Manifest], partial: Path) -> Manifest:
    first = made[0]
    golden = first.golden
    parts = [joined_variants(one, is_first=one is first) for one in made]
    return replace(
        first,
        created_utc=now_utc(),
        name=cascade.name,
        artifact_sha256=sha256_file(partial / RECORD),
        golden=replace(
            golden,
            images_path=f"{first.name}/{golden.images_path}",
            inputs_path=f"{first.name}/{golden.inputs_path}",
            logits_path=f"{first.name}/{golden.logits_path}",
        ),
        variants=tuple(variant for part in parts for variant in part),
        files=file_records(partial),
        confidence=None,
        notes=tuple(f"{one.name}: {note}" for one in made for note in one.notes),
        members=tuple(
            BundleMember(
                name=member.name,
                artifact_sha256=one.artifact_sha256,
                confidence=member.confidence,
                threshold=member.threshold,
                variants={own.id: joined.id for own, joined in zip(one.variants, part, strict=True)},
            )
            for member, one, part in zip(cascade.members, made, parts, strict=True)
        ),
    )
