"""What a compressed model has to reach, held against what it reached."""

from __future__ import annotations

from typing import Literal

from udacisense.base.records import StageRecord, record

MIN_SMALLER_PERCENT = 30.0
MIN_FASTER_PERCENT = 50.0
MAX_LOST_POINTS = 5.0


@record
class Requirement:
    """One row of the requirement table."""

    requirement: str
    measured: float
    bound: Literal["at least", "at most"]
    limit: float
    unit: str
    passed: bool


def check_requirements(baseline: StageRecord, final: StageRecord) -> tuple[Requirement, ...]:
    """Return the rows: ≥ 30 % smaller, ≥ 50 % less time a call, ≤ 5 points of top-1 lost.

    A gain in accuracy is a negative loss and never fails. The two latencies should have been timed by turns in one
    process, as :meth:`udacisense.pipeline.run.OptimizationPipeline.run` leaves them.
    """
    smaller = 100 * (1 - final.file_bytes / baseline.file_bytes)
    faster = 100 * (1 - final.latency_ms / baseline.latency_ms)
    lost = 100 * (baseline.top1_fraction - final.top1_fraction)
    return (
        _row("file size reduction", smaller, "at least", MIN_SMALLER_PERCENT, "%"),
        _row("latency reduction", faster, "at least", MIN_FASTER_PERCENT, "%"),
        _row("top-1 accuracy lost", lost, "at most", MAX_LOST_POINTS, "points"),
    )


def _row(name: str, measured: float, bound: Literal["at least", "at most"], limit: float, unit: str) -> Requirement:
    # 0.887 - 0.837 is 0.05000000000000004: a result on the limit must not fail by the last bit.
    value = round(measured, 9)
    passed = value >= limit if bound == "at least" else value <= limit
    return Requirement(requirement=name, measured=value, bound=bound, limit=limit, unit=unit, passed=passed)
