"""The chapters that are tables alone; Markdown consists of them, and HTML shows those that it draws no picture of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.bench.advice import cautions, recommend, verified_accuracy
from harness.bench.instructions import disagreements
from harness.bench.ranking import Row, rank
from harness.records import BenchSet, Host
from harness.report.collect import Evidence, by_host
from harness.report.gate import open_checks_table
from harness.report.table import Table
from harness.report.tables import (
    instructions_table,
    latency_table,
    requirements_table,
    stages_table,
    state_ranges,
    states_table,
    variants_table,
    verification_table,
)
from udacisense.pipeline.recipes import long_name
from udacisense.pipeline.run import RunRecord


@dataclass(frozen=True, kw_only=True)
class Section:
    """One chapter of the document."""

    title: str
    text: str
    tables: tuple[Table, ...]


def sections(evidence: Evidence) -> list[Section]:
    """Return the chapters, in the order of the work; a chapter without records is left out."""
    made = [
        Section(title="Models", text="", tables=model_tables(evidence)),
        Section(title="Pipelines", text="", tables=_pipelines(evidence)),
        Section(title="Techniques", text=TECHNIQUES_TEXT, tables=technique_tables(evidence)),
        Section(
            title="Formats",
            text="Sizes are decimal: 1 MB is 1,000,000 bytes.",
            tables=tuple(variants_table(m.variants, title=f"{m.name} ({path.parent})") for path, m in evidence.bundles),
        ),
        Section(
            title="Verification",
            text=VERIFICATION_TEXT,
            tables=tuple(verification_table(v, title=f"{v.bundle}: {v.inputs}") for _, v in evidence.verifications),
        ),
        Section(title="Gates", text="", tables=tuple(open_checks_table(path, gate) for path, gate in evidence.gates)),
    ]
    made += [_latency(evidence, path, measured) for one in by_host(evidence) for path, measured in one.benches]
    made.append(Section(title="Provenance", text="", tables=(records_table(evidence),)))
    return [section for section in made if section.tables]


def technique_tables(evidence: Evidence) -> tuple[Table, ...]:
    """Return each techniques record's tables: costs and gains, then accuracy per class."""
    from harness.report.techniques import (  # it writes Markdown with this package's cells
        per_class_table,
        techniques_table,
    )

    return tuple(made(found) for _, found in evidence.techniques for made in (techniques_table, per_class_table))


TECHNIQUES_TEXT = (
    "Each technique by itself, from the same baseline. The time ratio is to the baseline, timed by turns with it; "
    "McNemar's p is of the two models' hits on the same images."
)
VERIFICATION_TEXT = (
    "Numbers are held against the eager source of the same precision, decisions (agreement, flips) against the "
    "float32 master. The runner `mil` computes a Core ML file's program on this host: reference semantics, no proof "
    "of Apple's own kernels."
)


def model_tables(evidence: Evidence) -> tuple[Table, ...]:
    """One table a trained model that no pipeline made."""
    return tuple(
        stages_table(artifact.baseline, artifact.stages, title=f"{artifact.name} ({path.parent})")
        for path, artifact in evidence.artifacts
        if not artifact.stages
    )


def _pipelines(evidence: Evidence) -> tuple[Table, ...]:
    tables: list[Table] = []
    for path, run in evidence.runs:
        tables.append(_stages(run, title=f"{long_name(run.name)}: stages in {path.parent}"))
        tables.append(requirements_table(run.requirements, title=f"{run.name}: requirements"))
    return tuple(tables)


def _stages(run: RunRecord, *, title: str) -> Table:
    return stages_table(run.baseline, run.stages, time_ratios=run.time_ratios, title=title)


def ranked(evidence: Evidence, measured: BenchSet) -> list[Row]:
    """Return a sweep's rows, with the accuracy that was verified."""
    return rank(measured, accuracy=verified_accuracy(measured, evidence.own_host_first(measured.host)))


def host_name(host: Host) -> str:
    """Return a machine in a few words."""
    return f"{host.cpu}, {host.physical_cores} core{'s' if host.physical_cores != 1 else ''}, {host.machine}"


def latency_text(measured: BenchSet) -> str:
    """Say under which conditions a sweep ran, and how to read its table."""
    host = measured.host
    load = "not shown" if host.load_average is None else f"{host.load_average:.2f}"
    is_hidden = measured.runs and not state_ranges(measured)
    hidden = " While it measured, this host showed no load, frequency or temperature." if is_hidden else ""
    return (
        f"Measured on {host_name(host)}, {host.system}, load {load}, {measured.created_utc}, budget "
        f"{measured.budget.name}{'' if measured.complete else ', interrupted'}. Batch 1 unless the cell says "
        "otherwise. A speed-up is against eager float32 on as many threads, with its 99 % interval; a tie is an "
        f"interval that spans 1.{hidden}"
    )


def disagreements_text(measured: BenchSet, rows: Sequence[Row]) -> str:
    """Say where the host's times and ARM instructions prefer different files; empty where they do not."""
    return _listed("ARM instructions against the times of this host:", disagreements(measured, rows))


def notes_of(measured: BenchSet, rows: Sequence[Row]) -> tuple[str, ...]:
    """Return what could not be measured in a sweep, or is in doubt, one line each."""
    return (*measured.notes, *cautions(measured, rows))


def _listed(title: str, lines: Sequence[str]) -> str:
    return "\n".join([title, *(f"- {line}" for line in lines)]) if lines else ""


def _latency(evidence: Evidence, path: Path, measured: BenchSet) -> Section:
    rows = ranked(evidence, measured)
    texts = [latency_text(measured), recommend(measured, rows, evidence.own_host_first(measured.host))]
    texts += [disagreements_text(measured, rows), _listed("Not measured, or in doubt:", notes_of(measured, rows))]
    title = "Latency" if len(by_host(evidence)) == 1 else f"Latency on {host_name(measured.host)}"
    states = states_table(measured)
    tables = [latency_table(rows, title=f"Cells ({path})")]
    tables += [instructions_table(measured.instructions)] if measured.instructions else []
    tables += [states] if states is not None else []
    return Section(title=title, text="\n\n".join(filter(None, texts)), tables=tuple(tables))


def records_table(evidence: Evidence, *, with_hosts: bool = True) -> Table:
    """One row a record: what made it, and the checksum of what it is about."""
    rows: list[tuple[str | None, ...]] = []
    for path, artifact in evidence.artifacts:
        rows.append((str(path), f"seed {artifact.seed}, git {artifact.git_commit or 'none'}", artifact.sha256[:16]))
    for path, manifest in evidence.bundles:
        rows.append((str(path), f"made {manifest.created_utc}", manifest.artifact_sha256[:16]))
    for path, host in hosts(evidence) if with_hosts else ():
        dirty = {True: ", with changes", False: "", None: ""}[host.git_dirty]
        versions = ", ".join(f"{name} {version}" for name, version in host.libraries.items())
        rows.append((str(path), f"{host.cpu}; git {host.git_commit or 'none'}{dirty}; {versions}", None))
    return Table(title="Records", columns=("record", "made with", "sha256"), rows=tuple(rows))


def hosts(evidence: Evidence) -> list[tuple[Path, Host]]:
    """Return the machine behind each record that measured something."""
    verified = [(path, made.host) for path, made in evidence.verifications]
    return verified + [(path, made.host) for path, made in evidence.benches]
