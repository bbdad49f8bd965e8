"""The first page: what to decide, what was asked for, what nobody has checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from exporters.bundle.manifest import Manifest
from harness.bench.advice import recommend
from harness.bench.cascade import cascade_rows, check_cascade
from harness.host import host_name
from harness.records import MeasurementSet
from harness.report.blocks import Block, Chapter, Picture, Prose, Verdicts, gallery
from harness.report.chapters.shipping import shipping_tables
from harness.report.chapters.unverified import unverified_blocks
from harness.report.collect import Evidence
from harness.report.plots.cost import pareto_pictures
from harness.report.table import Table
from harness.report.tables import requirements_table
from udacisense.base.display import megabytes, percent
from udacisense.base.records import Outcome
from udacisense.pipeline.run import RunRecord


def summary_chapter(evidence: Evidence) -> Chapter:
    """Return the summary; its tables follow its sentences."""
    sentences = tuple(_verdicts(evidence))
    blocks: list[Block] = [Verdicts(sentences=sentences)] if sentences else []
    sweeps = [sweep for one in evidence.machines for sweep in one.sweeps]
    blocks += [Prose(text=recommend(sweep.measured, sweep.rows, sweep.verified)) for sweep in sweeps]
    blocks += gallery(_pictures(evidence))
    if sweeps:
        blocks += [table for sweep in sweeps for table in shipping_tables(evidence, sweep)]
    elif evidence.bundles:
        blocks.append(
            Prose(
                text="Nothing was timed, so no file is recommended: `udacisense bench BUNDLE…` times them.", tone="open"
            )
        )
    held = [(run.name, requirements_table(run.requirements)) for _, run in evidence.runs]
    for sweep in sweeps:
        rows = cascade_rows(sweep.measured, sweep.rows, sweep.verified)
        checked = [(one.name, check_cascade(one, rows, sweep.measured.reference)) for one in sweep.measured.cascades]
        held += [(name, requirements_table(found)) for name, found in checked if found]
    if lines := tuple((name, *row) for name, table in held for row in table.rows):
        columns = ("pipeline", *held[0][1].columns)
        blocks.append(Table(title="Requirements", columns=columns, rows=lines, is_key=True))
    blocks += unverified_blocks(evidence)
    return Chapter(anchor="summary", title="Summary", blocks=tuple(blocks))


def _pictures(evidence: Evidence) -> list[Picture]:
    """Return the trade between size, latency and accuracy, of each machine by itself."""
    made: list[Picture] = []
    for one in evidence.machines:
        where = f" on {host_name(one.host)}" if len(evidence.machines) > 1 else ""
        for sweep in one.sweeps:
            made += pareto_pictures(sweep.measured, sweep.rows, where=where)
    return made


def _verdicts(evidence: Evidence) -> Iterator[Prose]:
    yield from _decision(evidence)
    for _, run in evidence.runs:
        yield _run_verdict(run)
    for path, manifest in evidence.bundles:
        yield from _bundle_verdict(manifest, evidence.verifications_of(path))
    for path, made in evidence.verifications:
        if evidence.bundles and evidence.bundle_of(made.bundle_sha256) is None:
            yield Prose(
                text=f"{path} verified a bundle that is not among these records, or has changed since: its figures are "
                "not held against any file here.",
                tone="open",
            )


def _decision(evidence: Evidence) -> Iterator[Prose]:
    judged = [run for _, run in evidence.runs if run.requirements]
    ready = [run for run in judged if all(row.passed for row in run.requirements)]
    if not judged:
        return
    if not ready:
        text = "No pipeline meets every requirement: by these figures, none is ready to take the baseline's place."
        yield Prose(text=text, tone="bad")
    else:
        smallest = min(ready, key=lambda run: run.stages[-1].file_bytes if run.stages else run.baseline.file_bytes)
        last = smallest.stages[-1] if smallest.stages else smallest.baseline
        text = f"Ship {smallest.name}: it meets every requirement"
        text += ", with the smallest file of those that do" if len(ready) > 1 else ""
        text += f" ({megabytes(last.file_bytes)}, top-1 {percent(last.top1_fraction)})."
        yield Prose(text=text, tone="good")


def _run_verdict(run: RunRecord) -> Prose:
    missed = [row for row in run.requirements if not row.passed]
    doubtful = [row for row in run.requirements if row.passed and row.is_in_doubt]
    if not run.requirements:
        return Prose(text=f"{run.name}: no requirement was checked.", tone="open")
    if missed:
        what = "; ".join(
            f"{row.requirement} is {row.measured:.1f} {row.unit}, {row.bound} {row.limit:g} {row.unit} is wanted"
            for row in missed
        )
        count = f"{len(missed)} of {len(run.requirements)} requirements"
        return Prose(text=f"{run.name} misses {count}: {what}.", tone="bad")
    text = f"{run.name} meets all {len(run.requirements)} requirements."
    if doubtful:
        text += f" The limit of “{doubtful[0].requirement}” lies within the interval: more images would settle it."
    return Prose(text=text, tone="good")


def _bundle_verdict(manifest: Manifest, verified: Sequence[MeasurementSet]) -> Iterator[Prose]:
    if not verified:
        text = f"{manifest.name}: its files were not verified. `udacisense verify` proves them equal to their source."
        yield Prose(text=text, tone="open")
        return
    cells = [m for made in verified for m in made.measurements]
    failed = dict.fromkeys(m.spec.variant_id for m in cells if m.outcome is Outcome.FAILED)
    passed = dict.fromkeys(
        m.spec.variant_id for m in cells if m.outcome is Outcome.PASSED and m.spec.variant_id not in failed
    )
    exported = [v.id for v in (*manifest.variants, *manifest.ways()) if v.outcome is Outcome.PASSED]
    inputs = ", ".join(dict.fromkeys(made.inputs for made in verified))
    missing = [v.id for v in manifest.variants if v.outcome is Outcome.FAILED]
    for names, why in (
        ([name for name in failed if name not in missing], f"verification failed on {inputs}"),
        (missing, "the export failed, and there is no file"),
    ):
        if names:
            listed = ", ".join(f"`{name}`" for name in names)
            yield Prose(text=f"{manifest.name}: do not ship {listed}: {why}.", tone="bad")
    if passed:
        proven = len([name for name in exported if name in passed])
        text = f"{manifest.name}: {proven} of {len(exported)} exported files answer as their source does ({inputs})."
        yield Prose(text=text, tone="good" if proven == len(exported) else "open")
