"""What was asked for, held against what was measured, with how sure the figure is."""

from __future__ import annotations

import math
from pathlib import Path

from harness.gate.run import GateReport
from harness.report.table import Table
from udacisense.base.records import Outcome, StageRecord
from udacisense.measure.metrics import wilson_interval
from udacisense.pipeline.requirements import Requirement
from udacisense.pipeline.run import RunRecord

COLUMNS = ("requirement", "measured", "limit", "interval", "outcome")


def run_requirements(run: RunRecord) -> Table:
    """One row a requirement of a pipeline's run."""
    rows = tuple(requirement_row(run, row) for row in run.requirements)
    return Table(title=f"{run.name}: requirements", columns=COLUMNS, rows=rows)


def requirement_row(run: RunRecord, row: Requirement) -> tuple[str | None, ...]:
    """Return measured, limit, interval and outcome of one requirement, in words."""
    return (
        row.requirement,
        f"{row.measured:.1f} {row.unit}",
        f"{row.bound} {row.limit:g} {row.unit}",
        _interval(run, row),
        str(Outcome.PASSED if row.passed else Outcome.FAILED),
    )


def is_within_doubt(run: RunRecord, row: Requirement) -> bool:
    """Whether the limit of an accuracy requirement lies within the interval of what was measured."""
    if row.unit != "points" or not run.stages:
        return False
    interval = lost_points_interval(run.baseline, run.stages[-1])
    return interval is not None and interval[0] <= row.limit <= interval[1]


def _interval(run: RunRecord, row: Requirement) -> str | None:
    if row.unit == "points":
        interval = lost_points_interval(run.baseline, run.stages[-1]) if run.stages else None
        if interval is None:
            return None
        low, high = interval
        doubt = "; the limit lies within" if is_within_doubt(run, row) else ""
        return f"{low:.1f} to {high:.1f} points (95 %{doubt})"
    if "size" in row.requirement:
        return "exact"
    return "not recorded: timed in one process"


def lost_points_interval(before: StageRecord, after: StageRecord) -> tuple[float, float] | None:
    """Return the 95 % interval of the top-1 lost, in points; None where no image was counted.

    Of two proportions by Newcombe's hybrid of Wilson intervals (Newcombe 1998, "Interval estimation for the difference
    between independent proportions", method 10). Both were measured on the same images, so that it errs to the wide.
    """
    if min(before.n_eval_images, after.n_eval_images) < 1:
        return None
    p1, p2 = before.top1_fraction, after.top1_fraction
    low1, high1 = wilson_interval(round(p1 * before.n_eval_images), before.n_eval_images)
    low2, high2 = wilson_interval(round(p2 * after.n_eval_images), after.n_eval_images)
    lost = p1 - p2
    return (
        100 * (lost - math.hypot(p1 - low1, high2 - p2)),
        100 * (lost + math.hypot(high1 - p1, p2 - low2)),
    )


def gates_table(path: Path, gate: GateReport) -> Table:
    """One row a requirement that failed or could not be checked; the rest is counted."""
    shown = [entry for entry in gate.checks if entry.check.outcome is not Outcome.PASSED]
    rows = tuple(
        (
            entry.variant_id,
            entry.check.requirement,
            None if entry.check.measured is None else f"{entry.check.measured:.4g} {entry.check.unit}",
            f"{entry.check.limit:g} {entry.check.unit}",
            str(entry.check.outcome),
            entry.check.reason,
        )
        for entry in sorted(shown, key=lambda entry: entry.check.outcome is not Outcome.FAILED)
    )
    columns = ("variant", "requirement", "measured", "limit", "outcome", "why")
    counts = ", ".join(f"{sum(entry.check.outcome is o for entry in gate.checks)} {o}" for o in Outcome)
    return Table(title=f"Gate of {gate.bundle} ({path.name})", columns=columns, rows=rows, notes=(f"{counts}.",))
