"""What a compressed model has to reach, held against what it reached, with how sure the figure is."""

from __future__ import annotations

import math
from typing import Literal

from udacisense.base.records import StageRecord, record
from udacisense.measure.metrics import wilson_interval
from udacisense.measure.stats import Interval

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
    low: float | None = None  # 95 % interval of ``measured``; both are ``measured`` where it is exact, None: not known
    high: float | None = None

    @property
    def is_in_doubt(self) -> bool:
        """Whether the limit lies within the interval of what was measured."""
        return self.low is not None and self.high is not None and self.low <= self.limit <= self.high > self.low


def check_requirements(
    baseline: StageRecord, final: StageRecord, time_ratio: Interval | None = None
) -> tuple[Requirement, ...]:
    """Return the rows: ≥ 30 % smaller, ≥ 50 % less time a call, ≤ 5 points of top-1 lost.

    A gain in accuracy is a negative loss and never fails.

    Args:
        baseline: before compression.
        final: after it.
        time_ratio: of the final model's time to the baseline's, paired by round, with its 95 % interval. None: the
            ratio of the records' latencies, of which no interval is known.
    """
    smaller = 100 * (1 - final.file_bytes / baseline.file_bytes)
    lost = 100 * (baseline.top1_fraction - final.top1_fraction)
    ratio = final.latency_ms / baseline.latency_ms if time_ratio is None else time_ratio.value
    span = (None, None) if time_ratio is None else (time_ratio.high, time_ratio.low)
    low, high = (None if bound is None else 100 * (1 - bound) for bound in span)
    low_points, high_points = _lost_points(baseline, final)
    return (
        _at_least("file size reduction", smaller, MIN_SMALLER_PERCENT, (smaller, smaller)),
        _at_least("latency reduction", 100 * (1 - ratio), MIN_FASTER_PERCENT, (low, high)),
        Requirement(
            requirement="top-1 accuracy lost",
            measured=_rounded(lost),
            bound="at most",
            limit=MAX_LOST_POINTS,
            unit="points",
            passed=_rounded(lost) <= MAX_LOST_POINTS,
            low=low_points,
            high=high_points,
        ),
    )


def _lost_points(before: StageRecord, after: StageRecord) -> tuple[float | None, float | None]:
    """Return the 95 % interval of the top-1 lost, in points; None where no image was counted.

    Of two proportions by Newcombe's hybrid of Wilson intervals (Newcombe 1998, "Interval estimation for the difference
    between independent proportions", method 10). Both were measured on the same images, so that it errs to the wide.
    """
    if min(before.n_eval_images, after.n_eval_images) < 1:
        return None, None
    p1, p2 = before.top1_fraction, after.top1_fraction
    low1, high1 = wilson_interval(round(p1 * before.n_eval_images), before.n_eval_images)
    low2, high2 = wilson_interval(round(p2 * after.n_eval_images), after.n_eval_images)
    lost = p1 - p2
    return 100 * (lost - math.hypot(p1 - low1, high2 - p2)), 100 * (lost + math.hypot(high1 - p1, p2 - low2))


def _at_least(name: str, measured: float, limit: float, interval: tuple[float | None, float | None]) -> Requirement:
    low, high = (None if end is None else _rounded(end) for end in interval)
    value = _rounded(measured)
    return Requirement(
        requirement=name,
        measured=value,
        bound="at least",
        limit=limit,
        unit="%",
        passed=value >= limit,
        low=low,
        high=high,
    )


def _rounded(value: float) -> float:
    # 0.887 - 0.837 is 0.05000000000000004: a result on the limit must not fail by the last bit.
    return round(value, 9)
