"""The gate: what was verified and measured, held against requirements. Its exit code is the answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from exporters.bundle.open import bundle_sha256, opened
from harness.gate.checks import Standard, check_variant
from harness.gate.config import GateConfig
from harness.gate.figures import Figures, find_times, join_figures
from harness.host import require_like
from harness.records import BenchSet, Check, Host, MeasurementSet
from udacisense.base.records import Outcome, from_json, record
from udacisense.errors import InputError


@record
class GateCheck:
    """One requirement of one variant."""

    variant_id: str
    check: Check


@record
class GateReport:
    """``gate.json``: every check, and the figures that a later run is held against."""

    schema_version: Literal[1]
    kind: Literal["gate"]
    bundle: str
    bundle_sha256: str
    inputs: str
    host: Host | None  # of the times; None where nothing was timed
    figures: tuple[Figures, ...]
    checks: tuple[GateCheck, ...]

    FILE_NAME: ClassVar[str] = "gate.json"


def exit_code(report: GateReport) -> int:
    """Return 0 where something passed and nothing failed, else 1."""
    outcomes = [entry.check.outcome for entry in report.checks]
    return 0 if Outcome.PASSED in outcomes and Outcome.FAILED not in outcomes else 1


@dataclass(frozen=True)
class Past:
    """An older run."""

    host: Host | None
    figures: Mapping[str, Figures]


def gate_bundle(
    path: Path,
    *,
    verification: MeasurementSet,
    bench: BenchSet | None = None,
    config: GateConfig | None = None,
    baseline: Past | None = None,
) -> GateReport:
    """Hold a bundle against its requirements.

    Args:
        path: the bundle's folder.
        verification: what ``verify`` found; of this very bundle.
        bench: what ``bench`` measured, this bundle among others; without it nothing is said about speed.
        config: the requirements; None: the defaults of :mod:`harness.gate.config`.
        baseline: an older run, from :func:`read_baseline`.

    Raises:
        InputError: a record is of another bundle, or times of unlike hosts would be compared.
    """
    with opened(path) as bundle:
        manifest, sha256 = bundle.manifest, bundle_sha256(bundle.root)
    if verification.kind != "verify":
        raise InputError(f"The verification is a record of {verification.kind!r}; give one that 'verify' wrote.")
    if verification.bundle_sha256 != sha256:
        raise InputError(f"The verification is of another bundle ({verification.bundle}); verify {path} again.")
    timed = None if bench is None else find_times(bench, sha256, path, verification)
    if bench is not None and baseline is not None and baseline.host is not None:
        require_like(baseline.host, bench.host)
    variants = (*manifest.variants, *manifest.ways())  # a way to run a cascade is held to the same as a file
    cells = {v.id: [m for m in verification.measurements if m.spec.variant_id == v.id] for v in variants}
    figures = {v.id: join_figures(v.id, cells[v.id], v.file_bytes, timed) for v in variants}
    past = None if baseline is None else baseline.figures
    standard = Standard(config=config or GateConfig(), figures=figures, timed=timed, past=past)
    checks = [
        GateCheck(variant_id=v.id, check=check) for v in variants for check in check_variant(v, cells[v.id], standard)
    ]
    return GateReport(
        schema_version=1,
        kind="gate",
        bundle=str(path),
        bundle_sha256=sha256,
        inputs=verification.inputs,
        host=None if bench is None else bench.host,
        figures=tuple(figures.values()),
        checks=tuple(checks),
    )


def read_baseline(path: Path) -> Past:
    """Read an older run: what ``gate``, ``verify`` or ``bench`` wrote.

    Raises:
        InputError: it is none of them.
    """
    try:
        text = path.read_bytes()
        content = json.loads(text)
    except OSError as exc:
        raise InputError(f"{path} cannot be read: {exc.strerror or exc}; give an older record.") from exc
    except (ValueError, RecursionError) as exc:  # RecursionError: thousands of brackets
        raise InputError(f"{path} cannot be read as JSON: {exc}.") from exc
    kind = content.get("kind") if isinstance(content, dict) else None
    if kind == "gate":
        report = from_json(GateReport, text, source=str(path))
        return Past(report.host, {f.variant_id: f for f in report.figures})
    if kind == "verify":
        verified = from_json(MeasurementSet, text, source=str(path))
        ids = {m.spec.variant_id for m in verified.measurements}
        cells = {i: [m for m in verified.measurements if m.spec.variant_id == i] for i in ids}
        return Past(None, {i: join_figures(i, cells[i], None, None) for i in ids})
    if kind == "bench":
        measured = from_json(BenchSet, text, source=str(path))
        members = {member.bundle for cascade in measured.cascades for member in cascade.members}
        sha256 = [b.sha256 for b in measured.bundles if b.name not in members] + [c.sha256 for c in measured.cascades]
        if len(sha256) != 1:
            raise InputError(f"{path} has {len(sha256)} bundles; a baseline has one.")
        timed = find_times(measured, sha256[0], path, None)
        sizes = {i: row.cell.file_bytes for i, row in timed.best.items()}
        sizes |= {i: way.file_bytes for i, way in timed.ways.items()}
        figures = {i: join_figures(i, [], size, timed) for i, size in sizes.items()}
        return Past(measured.host, figures)
    raise InputError(f"{path} is no record of gate, verify or bench; give one of these as the baseline.")
