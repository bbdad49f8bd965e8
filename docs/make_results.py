"""Write the tables of README.md and of pages in docs/ from records.

Run ``python docs/make_results.py FOLDER…``. Each table stands between two marks, ``<!-- NAME: begin -->`` and
``<!-- NAME: end -->``; one whose record is in none of the folders stays as it is. Looked for, in this order of folders:

- ``p1``, ``p2`` (or ``tiny``) and ``p2-int8``: runs of ``udacisense compress``, as ``udacisense/zoo`` has them too;
- ``baseline``, ``p1``, ``tiny``: bundles, with ``NAME.verify.json`` beside them, and ``bench.json``;
- ``instructions.json``: what ``udacisense bench baseline p1 tiny --only-instructions --format json`` printed of them;
- ``techniques``: a run of ``udacisense techniques``.

``docs/seeds.json`` has the top-1 of every seed, ``docs/search.json`` the record of a run of ``udacisense search``.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from exporters.bundle.manifest import Manifest
from exporters.formats.contract import SUFFIXES
from harness.bench.ranking import rank
from harness.records import BenchSet, Measurement, MeasurementSet, VariantInstructions
from harness.report.chapters.search import search_markdown
from harness.report.plots.techniques import write_plots
from harness.report.table import Table, markdown_table
from harness.report.tables import latency_table, requirements_table, stages_table
from harness.report.techniques import as_markdown, per_class_table, techniques_table
from udacisense.base.display import change, megabytes, percent
from udacisense.base.files import write_text
from udacisense.base.records import Count, Outcome, StageRecord, from_json, read_json, record
from udacisense.measure.metrics import wilson_interval
from udacisense.pipeline.run import RunRecord
from udacisense.pipeline.search.record import SearchRecord
from udacisense.pipeline.techniques import TechniquesRecord

DOCS = Path(__file__).parent
PAGES = (
    DOCS.parent / "README.md",
    DOCS / "results.md",
    DOCS / "techniques.md",
    DOCS / "howto" / "search.md",
    DOCS / "android-runtime.md",
)
SHIPPED = ("baseline", "p1", "tiny")
RUNS = {"p1": ("p1",), "p2": ("p2", "tiny"), "p2-int8": ("p2-int8",)}  # pipeline → folders that may hold its record
NETWORKS = {
    "p1": ("`p1`, as pipeline p1 leaves it", "its features at 128 px, a smaller classifier, static int8"),
    "p2": ("`tiny`, from pipeline p2", "inverted residuals on the 32 px photo"),
}


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What a model should reach with the mean of its seeds; None: not asked."""

    reference: str
    text: str
    least_fraction: float | None = None  # top-1
    most_lost: float | None = None  # top-1 below our baseline's mean
    most_bytes: float | None = None
    least_faster: float | None = None  # share of the baseline's latency that is saved


GOALS = {
    "baseline": Goal(reference="88.7 %", text="≥ 88.7 %", least_fraction=0.887),
    "p1": Goal(
        reference="88.0 %, 3.69 MB",
        text="≤ 0.7 points below our baseline, ≤ 2.0 MB, ≥ 50 % faster",
        most_lost=0.007,
        most_bytes=2.0e6,
        least_faster=0.5,
    ),
    "p2": Goal(
        reference="84-88 % expected, 0.16 MB",
        text="≤ 5 points below our baseline, ≤ 0.17 MB",
        most_lost=0.05,
        most_bytes=0.17e6,
    ),
    "p2-int8": Goal(
        reference="none", text="≤ 5 points below our baseline, ≤ 0.07 MB", most_lost=0.05, most_bytes=0.07e6
    ),
}


@record
class SeedRun:
    """Top-1 of one trained model on the test images."""

    model: str  # of GOALS
    seed: Count
    top1_fraction: float
    date: str
    cpu: str


@record
class SeedRuns:
    """``seeds.json``: every run that the goals are held against."""

    schema_version: Literal[1]
    runs: tuple[SeedRun, ...]


def main(folders: Sequence[Path]) -> None:
    """Write every table whose record is there, and say which."""
    tables = _run_tables(folders) | _file_tables(folders) | _technique_tables(folders)
    tables["search"] = search_markdown(read_json(SearchRecord, DOCS / SearchRecord.FILE_NAME))
    pages = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    if lost := [name for name in tables if f"<!-- {name}: begin -->" not in pages]:
        sys.exit(f"No page has the marks of {', '.join(lost)}.")
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for name, table in tables.items():
            marks = re.compile(rf"(<!-- {name}: begin -->\n).*?(<!-- {name}: end -->)", re.S)
            text = marks.sub(lambda found, table=table: f"{found[1]}{table.strip()}\n{found[2]}", text)  # type: ignore[misc]
        write_text(page, text)
    sys.stdout.write(f"Written: {', '.join(tables) or 'nothing; no record was found'}.\n")


def _find(folders: Sequence[Path], *names: str) -> Path | None:
    return next((f / name for name in names for f in folders if (f / name).is_file()), None)


def _run_tables(folders: Sequence[Path]) -> dict[str, str]:
    records: dict[str, RunRecord] = {}
    for name, places in RUNS.items():
        if path := _find(folders, *(f"{place}/{RunRecord.FILE_NAME}" for place in places)):
            records[name] = read_json(RunRecord, path)
    tables = {
        name: "\n".join(
            (
                as_markdown(stages_table(run.baseline, run.stages, time_ratios=run.time_ratios)),
                as_markdown(_contributions(run)),
                as_markdown(requirements_table(run.requirements)),
            )
        )
        for name, run in records.items()
    }
    if set(NETWORKS) <= set(records):
        tables["models"] = markdown_table(_models(records))
    if set(RUNS) <= set(records):
        tables["goals"] = markdown_table(_goals(records))
    return tables


def _seeds() -> dict[str, list[float]]:
    kept = read_json(SeedRuns, DOCS / "seeds.json").runs
    return {name: [run.top1_fraction for run in kept if run.model == name] for name in GOALS}


def _models(records: dict[str, RunRecord]) -> Table:
    means = {name: statistics.mean(found) for name, found in _seeds().items()}
    base = next(iter(records.values())).baseline
    size = megabytes(base.file_bytes)
    rows = [("`baseline`", "MobileNetV3-Small, 224 px", size, "-", percent(means["baseline"]))]
    for name, (model, network) in NETWORKS.items():
        before, after, ratio = records[name].baseline, records[name].stages[-1], records[name].time_ratios[-1].value
        rows.append(
            (
                model,
                network,
                f"{megabytes(after.file_bytes)} ({change(after.file_bytes, before.file_bytes)})",
                change(ratio, 1),  # by turns, as the table of the stages has it
                f"{percent(means[name])} ({100 * (means[name] - means['baseline']):+.1f} points)",
            )
        )
    return Table(title="", columns=("model", "network", "file", "latency", "top-1"), rows=tuple(rows))


def _file_tables(folders: Sequence[Path]) -> dict[str, str]:
    tables: dict[str, str] = {}
    bundles = {name: _find(folders, f"{name}/{Manifest.FILE_NAME}") for name in SHIPPED}
    made = {name: read_json(Manifest, path) for name, path in bundles.items() if path}
    if all(bundles.values()):
        tables["sizes"] = markdown_table(_sizes(made))
    verified = {name: _find(folders, f"{name}.verify.json") for name in SHIPPED}
    judged = {name: read_json(MeasurementSet, path) for name, path in verified.items() if path}
    if all(verified.values()):
        tables["verified"] = markdown_table(_verified(judged))
    if path := _find(folders, "instructions.json"):
        entries = json.loads(path.read_text(encoding="utf-8"))
        counted = [from_json(VariantInstructions, json.dumps(entry), source=str(path)) for entry in entries]
        tables["arm"] = markdown_table(_instructions(counted))
        if all((*bundles.values(), *verified.values())):
            tables["arm-ship"] = markdown_table(_to_ship(counted, made, judged))
    if path := _find(folders, "bench.json"):
        rows = [row for row in rank(read_json(BenchSet, path)) if row.median_ms is not None]
        tables["latency"] = markdown_table(latency_table(rows))
    return tables


def _sizes(bundles: dict[str, Manifest]) -> Table:
    sizes = {name: {v.id: v.file_bytes for v in made.variants if v.file_bytes} for name, made in bundles.items()}
    ids = list(dict.fromkeys(variant for found in sizes.values() for variant in found))
    rows = tuple((f"`{i}`", *(f"{found[i]:,}" if i in found else None for found in sizes.values())) for i in ids)
    return Table(title="", columns=("variant", *(f"`{name}`" for name in sizes)), rows=rows)


def _verified(judged: dict[str, MeasurementSet]) -> Table:
    """One row a variant, of the runner that saw most images; what failed is told below."""
    best: dict[str, dict[str, Measurement]] = {name: {} for name in judged}
    for name, made in judged.items():
        for row in made.measurements:
            if _n_inputs(row) > _n_inputs(best[name].get(row.spec.variant_id)):
                best[name][row.spec.variant_id] = row
    ids = list(dict.fromkeys(variant for found in best.values() for variant in found))
    rows = tuple((f"`{i}`", *(_verdict(found.get(i)) for found in best.values())) for i in ids)
    notes = tuple(
        f"`{name}` as `{row.spec.variant_id}` failed: {row.reason}"
        for name, found in best.items()
        for row in found.values()
        if row.outcome is Outcome.FAILED
    )
    return Table(title="", columns=("variant", *(f"`{name}`" for name in judged)), rows=rows, notes=notes)


def _instructions(counted: Sequence[VariantInstructions]) -> Table:
    """One row a variant: millions of ARM instructions a call, and how many a multiply-add."""
    found = {(one.bundle, one.variant_id): one for one in counted}
    ids = list(dict.fromkeys(one.variant_id for one in counted))
    rows = tuple((f"`{i}`", *(_in_millions(found.get((name, i))) for name in SHIPPED)) for i in ids)
    return Table(title="", columns=("variant", *(f"`{name}`" for name in SHIPPED)), rows=rows)


def _in_millions(one: VariantInstructions | None) -> str | None:
    if one is None or one.instructions_per_call is None:
        return None
    return f"{one.instructions_per_call / 1e6:.2f} M, {one.instructions_per_call / one.macs:.2f}"


def _to_ship(
    counted: Sequence[VariantInstructions], bundles: dict[str, Manifest], judged: dict[str, MeasurementSet]
) -> Table:
    """One row a model and format: of its files that passed every runner, the one of fewest instructions."""
    rows = []
    for name in SHIPPED:
        own = {one.variant_id: one for one in counted if one.bundle == name}
        best: dict[str, tuple[float, tuple[str | None, ...]]] = {}
        for variant in bundles[name].variants:
            seen = [row for row in judged[name].measurements if row.spec.variant_id == variant.id]
            whole = max((row for row in seen if row.outcome is Outcome.PASSED), key=_n_inputs, default=None)
            needed = own[variant.id].instructions_per_call if variant.id in own else None
            if needed is None or whole is None or any(row.outcome is Outcome.FAILED for row in seen):
                continue
            if needed < best.get(variant.format, (float("inf"),))[0]:
                file = (f"`{name}`", SUFFIXES[variant.format], f"`{variant.id}`", megabytes(variant.file_bytes or 0))
                best[variant.format] = (needed, (*file, _in_millions(own[variant.id]), _verdict(whole)))
        fewest = min((needed for needed, _ in best.values()), default=0.0)
        rows += [(*row, "ship" if needed == fewest else None) for needed, row in best.values()]
    columns = ("model", "format", "file", "size", "instructions, a multiply-add", "decisions kept, max |Δ|, top-1", "")
    return Table(title="", columns=columns, rows=tuple(rows))


def _n_inputs(row: Measurement | None) -> int:
    return row.comparison.n_inputs if row and row.comparison else 0


def _verdict(row: Measurement | None) -> str | None:
    if row is None or row.comparison is None:
        return None
    found = row.comparison
    most = "not finite" if found.max_abs is None else f"{found.max_abs:.1e}"
    told = {Outcome.FAILED: ", FAILED", Outcome.SKIPPED: ", skipped"}.get(row.outcome, "")
    return f"{percent(found.top1_agreement_fraction)}, {most}, {percent(found.top1_fraction)}{told}"


def _technique_tables(folders: Sequence[Path]) -> dict[str, str]:
    path = _find(folders, f"techniques/{TechniquesRecord.FILE_NAME}")
    if path is None:
        return {}
    found = read_json(TechniquesRecord, path)
    pictures = DOCS / "pictures" / "results"
    for plot in write_plots(found, path.parent):
        if plot.stem in {"pareto", "confusion-baseline"}:
            write_text(pictures / plot.name, plot.read_text(encoding="utf-8"))
    return {
        "techniques": markdown_table(techniques_table(found)),
        "classes": markdown_table(per_class_table(found)),
    }


def _goals(records: dict[str, RunRecord]) -> Table:
    seeds = _seeds()
    baseline = statistics.mean(seeds["baseline"])
    first = next(iter(records.values())).baseline
    rows = [_goal("baseline", seeds["baseline"], baseline, first, first)]
    rows += [_goal(name, seeds[name], baseline, run.stages[-1], run.baseline) for name, run in records.items()]
    columns = ("model", "reference", "goal", "each seed", "mean", "95 %", "points", "size", "time", "goal is")
    return Table(title="Our figures on the 1,000 test images", columns=columns, rows=tuple(rows))


def _goal(
    name: str, seeds: list[float], baseline: float, found: StageRecord, base: StageRecord
) -> tuple[str | None, ...]:
    mean, goal, is_baseline = statistics.mean(seeds), GOALS[name], found is base
    low, high = wilson_interval(round(mean * found.n_eval_images), found.n_eval_images)
    faster = 1 - found.latency_ms / base.latency_ms
    missed = [
        what
        for what, is_met in (
            ("top-1", goal.least_fraction is None or mean >= goal.least_fraction),
            ("top-1", goal.most_lost is None or mean >= baseline - goal.most_lost),
            ("size", goal.most_bytes is None or found.file_bytes <= goal.most_bytes),
            ("time", goal.least_faster is None or faster >= goal.least_faster),
        )
        if not is_met
    ]
    return (
        name,
        goal.reference,
        goal.text,
        ", ".join(f"{100 * share:.1f}" for share in seeds),
        percent(mean),
        f"{100 * low:.1f}-{100 * high:.1f}",
        None if is_baseline else f"{100 * (mean - baseline):+.1f}",
        megabytes(found.file_bytes),
        None if is_baseline else f"{-100 * faster:+.0f} %",
        f"missed: {', '.join(missed)}" if missed else "reached",
    )


def _contributions(run: RunRecord) -> Table:
    rows, before = [], run.baseline
    for stage in run.stages:
        rows.append(
            (
                stage.stage,
                f"{100 * (stage.file_bytes - before.file_bytes) / run.baseline.file_bytes:+.1f} %",
                f"{100 * (stage.latency_ms - before.latency_ms) / run.baseline.latency_ms:+.1f} %",
                f"{100 * (stage.top1_fraction - before.top1_fraction):+.1f}",
            )
        )
        before = stage
    columns = ("stage", "size, of the baseline's", "latency, of the baseline's", "points")
    return Table(title="What each stage contributes", columns=columns, rows=tuple(rows))


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
