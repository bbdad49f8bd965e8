"""The records below some folders, each read strictly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from exporters.bundle.manifest import Manifest
from exporters.bundle.open import bundle_sha256
from harness.bench.advice import verified_accuracy
from harness.bench.ranking import Row, rank
from harness.gate.run import GateReport
from harness.host import machine_differences
from harness.records import BenchSet, Host, MeasurementSet
from udacisense.base.files import why_absent
from udacisense.base.records import Artifact, read_json
from udacisense.errors import InputError
from udacisense.measure.cascade import Cascade
from udacisense.measure.metrics import Evaluation
from udacisense.pipeline.recipes import short_name
from udacisense.pipeline.run import RunRecord
from udacisense.pipeline.search.record import SearchRecord
from udacisense.pipeline.store import STEP_FILE
from udacisense.pipeline.techniques import TechniquesRecord

_Named = TypeVar("_Named", Artifact, RunRecord)


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """A sweep, its ranked rows, and what was verified: on the sweep's own machine first, then elsewhere."""

    path: Path
    measured: BenchSet
    rows: tuple[Row, ...]
    verified: tuple[MeasurementSet, ...]


@dataclass(frozen=True, kw_only=True)
class OneHost:
    """A machine and the sweeps that it ran."""

    host: Host
    sweeps: tuple[Ranked, ...]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The records that were found, each with the file that it came from."""

    artifacts: tuple[tuple[Path, Artifact], ...]
    evaluations: tuple[tuple[Path, Evaluation], ...]
    runs: tuple[tuple[Path, RunRecord], ...]
    techniques: tuple[tuple[Path, TechniquesRecord], ...]
    searches: tuple[tuple[Path, SearchRecord], ...]
    cascades: tuple[tuple[Path, Cascade], ...]
    bundles: tuple[tuple[Path, Manifest], ...]
    verifications: tuple[tuple[Path, MeasurementSet], ...]
    gates: tuple[tuple[Path, GateReport], ...]
    benches: tuple[tuple[Path, BenchSet], ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that was read."""
        return tuple(path for kind in fields(self) for path, _ in getattr(self, kind.name))

    def bundle_of(self, sha256: str) -> tuple[Path, Manifest] | None:
        """Return the bundle whose manifest has this SHA-256, where it was found and is unchanged."""
        return next((found for found in self.bundles if bundle_sha256(found[0].parent) == sha256), None)

    def verifications_of(self, manifest: Path) -> list[MeasurementSet]:
        """Return what was verified of the bundle that this ``manifest.json`` is of, as it is now."""
        sha256 = bundle_sha256(manifest.parent)
        return [made for _, made in self.verifications if made.bundle_sha256 == sha256]

    @cached_property
    def machines(self) -> tuple[OneHost, ...]:
        """The sweeps, ranked, by the machine that ran them. Figures of two machines are never ranked together."""
        groups: list[list[Ranked]] = []
        for path, measured in self.benches:
            verified = [made for _, made in self.verifications]
            verified.sort(key=lambda made: bool(machine_differences(measured.host, made.host)))
            rows = rank(measured, accuracy=verified_accuracy(measured, verified))
            sweep = Ranked(path=path, measured=measured, rows=tuple(rows), verified=tuple(verified))
            for group in groups:
                if not machine_differences(group[0].measured.host, measured.host):
                    group.append(sweep)
                    break
            else:
                groups.append([sweep])
        return tuple(OneHost(host=group[0].measured.host, sweeps=tuple(group)) for group in groups)


def collect(paths: Sequence[Path]) -> Evidence:
    """Read the records under the given folders (or the given files).

    A record is known by its name (``artifact.json``, ``cascade.json``, ``result.json``, ``manifest.json``) or by its
    ending (``.verify.json``, ``.bench.json``, ``.gate.json``, ``.evaluation.json``, ``.techniques.json``,
    ``.search.json``, or the same without a name before it). What lies in the folders of a bundle is left out.

    Raises:
        InputError: a path does not exist, a record is damaged, or there is none.
    """
    found = sorted({file for path in paths for file in _files(path)})

    def ending(name: str) -> list[Path]:
        return [f for f in found if f.name == name or f.name.endswith(f".{name}")]

    evidence = Evidence(
        artifacts=tuple((f, _named(read_json(Artifact, f))) for f in found if f.name == Artifact.FILE_NAME),
        evaluations=tuple((f, read_json(Evaluation, f)) for f in ending("evaluation.json")),
        runs=tuple((f, _named(read_json(RunRecord, f))) for f in found if f.name == RunRecord.FILE_NAME),
        techniques=tuple((f, read_json(TechniquesRecord, f)) for f in ending(TechniquesRecord.FILE_NAME)),
        searches=tuple((f, read_json(SearchRecord, f)) for f in ending(SearchRecord.FILE_NAME)),
        cascades=tuple((f, read_json(Cascade, f)) for f in found if f.name == Cascade.FILE_NAME),
        bundles=tuple((f, read_json(Manifest, f)) for f in found if f.name == Manifest.FILE_NAME),
        verifications=tuple((f, read_json(MeasurementSet, f)) for f in ending("verify.json")),
        gates=tuple((f, read_json(GateReport, f)) for f in ending(GateReport.FILE_NAME)),
        benches=tuple((f, read_json(BenchSet, f)) for f in ending("bench.json")),
    )
    if not any(getattr(evidence, name) for name in Evidence.__dataclass_fields__):
        files = ", whose name is none of a record's" if all(path.is_file() for path in paths) else ""
        raise InputError(
            f"No record was found under {', '.join(map(str, paths))}{files}; give the folders that train, compress, "
            "export, verify and bench wrote to."
        )
    return evidence


def _named(record: _Named) -> _Named:
    return replace(record, name=short_name(record.name))


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise InputError(f"{path} does not exist{why_absent(path)}; give a folder with records, or a record.")
    if path.is_file():
        return [path]
    return [file for file in path.rglob("*.json") if not _is_copy(file, path)]


def _is_copy(file: Path, top: Path) -> bool:
    """Tell whether a file is a copy: of a finished step, or within a bundle; or unfinished (a name with a dot)."""
    for folder in (file, *file.parents):
        if folder == top:
            return False
        if folder.name.startswith(".") or (folder / STEP_FILE).is_file():
            return True
        if folder != file and (folder.parent / Manifest.FILE_NAME).is_file():
            return True  # what lies in a bundle's folders is its source, or a member's own bundle
    return False
