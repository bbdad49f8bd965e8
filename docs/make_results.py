# ruff: noqa: E501 - the page is written as it is read
"""Write the tables of README, docs/results.md and docs/techniques.md from records: ``python docs/make_results.py RUNS``.

RUNS holds ``p1/``, ``p2/``, ``p2-int8/`` (``udacisense compress``), each a run of one seed, and may hold ``techniques/`` (``udacisense
techniques``); ``docs/seeds.json`` has the top-1 of every seed. A table stands between ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->``.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.report.html.plots.techniques import write_plots
from harness.report.table import Table, markdown_table
from harness.report.tables import requirements_table, stages_table
from harness.report.techniques import as_markdown, per_class_table, techniques_table
from udacisense.base.display import megabytes, percent
from udacisense.base.files import write_text
from udacisense.base.records import Count, StageRecord, read_json, record
from udacisense.measure.metrics import wilson_interval
from udacisense.pipeline.run import RunRecord
from udacisense.pipeline.techniques import TechniquesRecord

DOCS = Path(__file__).parent


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


def main(runs: Path) -> None:
    """Write the tables and the plots of what RUNS holds."""
    names = [name for name in ("p1", "p2", "p2-int8") if (runs / name / RunRecord.FILE_NAME).is_file()]
    records = {name: read_json(RunRecord, runs / name / RunRecord.FILE_NAME) for name in names}
    tables = {"goals": [_goals(records)]}
    for name, run in records.items():
        stages = stages_table(run.baseline, run.stages, time_ratios=run.time_ratios)
        tables[name] = [stages, _contributions(run), requirements_table(run.requirements)]
    _fill(DOCS / "results.md", tables)
    _fill(DOCS.parent / "README.md", {"models": [_models(records)]})
    if (runs / "techniques").is_dir():
        techniques = read_json(TechniquesRecord, runs / "techniques" / TechniquesRecord.FILE_NAME)
        found = {"techniques": [techniques_table(techniques)], "classes": [per_class_table(techniques)]}
        _fill(DOCS / "techniques.md", found)
        for plot in write_plots(techniques, runs / "techniques"):
            if plot.stem in {"pareto", "confusion-baseline"}:
                write_text(DOCS / "pictures" / "results" / plot.name, plot.read_text(encoding="utf-8"))


def _fill(page: Path, tables: dict[str, list[Table]]) -> None:
    text = page.read_text(encoding="utf-8")
    for name, parts in tables.items():
        begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
        before, rest = text.split(begin)
        made = [markdown_table(part) if len(parts) == 1 else as_markdown(part) for part in parts]
        text = before + begin + "\n".join(made).rstrip() + "\n" + end + rest.split(end, 1)[1]
    write_text(page, text)


_SHIPPED = {
    "p1": ("`p1`, as pipeline p1 leaves it", "its features at 128 px, a smaller classifier, static int8"),
    "p2": ("`tiny`, from pipeline p2", "inverted residuals on the 32 px photo"),
}


def _models(records: dict[str, RunRecord]) -> Table:
    """Return the front page's table: the models that ship, by the mean of their seeds."""
    means = {name: statistics.mean(found) for name, found in _seeds().items()}
    base = next(iter(records.values())).baseline
    rows = [("`baseline`", "MobileNetV3-Small, 224 px", megabytes(base.file_bytes), "1", percent(means["baseline"]))]
    for name, (model, network) in _SHIPPED.items():
        run = records[name]
        last, lost = run.stages[-1], 100 * (means[name] - means["baseline"])
        size = f"{megabytes(last.file_bytes)} ({100 * (last.file_bytes / base.file_bytes - 1):+.1f} %)"
        time = f"{100 * (last.latency_ms / run.baseline.latency_ms - 1):+.1f} %"
        rows.append((model, network, size, time, f"{percent(means[name])} ({lost:+.1f} points)"))
    return Table(title="", columns=("model", "network", "file", "latency", "top-1"), rows=tuple(rows))


def _seeds() -> dict[str, list[float]]:
    kept = read_json(SeedRuns, DOCS / "seeds.json").runs
    return {name: [run.top1_fraction for run in kept if run.model == name] for name in GOALS}


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
    main(Path(sys.argv[1]))
