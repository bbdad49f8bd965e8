"""What a compressed model has to reach, held against what it reached, with how sure the figure is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from udacisense.base.records import StageRecord, record
from udacisense.measure.metrics import wilson_interval
from udacisense.measure.stats import Interval

MIN_SMALLER_PERCENT = 30.0
MIN_FASTER_PERCENT = 50.0
MAX_LOST_POINTS = 5.0
# Of a cascade: the mean time over images, as .ptl and in the best format, and what its files take together.
MIN_CASCADE_PTL_FASTER_PERCENT = 90.0
MIN_CASCADE_FASTER_PERCENT = 93.0
MAX_CASCADE_LOST_POINTS = 1.0
MAX_CASCADE_BYTES = 1_500_000


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
    ratio = final.latency_ms / baseline.latency_ms if time_ratio is None else time_ratio.value
    span = (None, None) if time_ratio is None else (time_ratio.high, time_ratio.low)
    low, high = (None if bound is None else 100 * (1 - bound) for bound in span)
    return (
        _row("file size reduction", "at least", smaller, MIN_SMALLER_PERCENT, "%", interval=(smaller, smaller)),
        _row("latency reduction", "at least", 100 * (1 - ratio), MIN_FASTER_PERCENT, "%", interval=(low, high)),
        _lost(
            (baseline.top1_fraction, baseline.n_eval_images),
            (final.top1_fraction, final.n_eval_images),
            MAX_LOST_POINTS,
        ),
    )


def check_fast_cascade(
    *,
    speedups: Mapping[str, tuple[Interval, float]],
    file_bytes: int,
    baseline_top1: float | None,
    top1: float | None,
    n_images: int,
) -> tuple[Requirement, ...]:
    """Return the rows of a cascade; accuracy where it is known.

    Args:
        speedups: requirement → (the baseline's time over the cascade's mean, least reduction in percent).
        file_bytes: of all members together.
        baseline_top1: of the model that the cascade is to replace.
        top1: of the cascade, on the same images.
        n_images: so many.
    """
    rows = [
        _row(name, "at least", _saved(gain.value) or 0.0, limit, "%", interval=(_saved(gain.low), _saved(gain.high)))
        for name, (gain, limit) in speedups.items()
    ]
    size = file_bytes / 1e6
    rows.append(_row("size of its files", "at most", size, MAX_CASCADE_BYTES / 1e6, "MB", interval=(size, size)))
    if top1 is not None and baseline_top1 is not None:
        rows.append(_lost((baseline_top1, n_images), (top1, n_images), MAX_CASCADE_LOST_POINTS))
    return tuple(rows)


def _saved(speedup: float | None) -> float | None:
    return None if speedup is None else 100 * (1 - 1 / speedup)


def _lost(before: tuple[float, int], after: tuple[float, int], limit: float) -> Requirement:
    """Return the row of top-1 lost; before and after: (top-1, images)."""
    lost = 100 * (before[0] - after[0])
    return _row("top-1 accuracy lost", "at most", lost, limit, "points", interval=_lost_points(before, after))


def _lost_points(before: tuple[float, int], after: tuple[float, int]) -> tuple[float | None, float | None]:
    """Return the 95 % interval of the top-1 lost, in points; None where no image was counted.

    Of two proportions by Newcombe's hybrid of Wilson intervals (Newcombe 1998, "Interval estimation for the difference
    between independent proportions", method 10). Both were measured on the same images, so that it errs to the wide.
    """
    if min(before[1], after[1]) < 1:
        return None, None
    p1, p2 = before[0], after[0]
    low1, high1 = wilson_interval(round(p1 * before[1]), before[1])
    low2, high2 = wilson_interval(round(p2 * after[1]), after[1])
    lost = p1 - p2
    return 100 * (lost - math.hypot(p1 - low1, high2 - p2)), 100 * (lost + math.hypot(high1 - p1, p2 - low2))


def _row(
    requirement: str,
    bound: Literal["at least", "at most"],
    measured: float,
    limit: float,
    unit: str,
    *,
    interval: tuple[float | None, float | None],
) -> Requirement:
    # Rounded: 0.887 - 0.837 is 0.05000000000000004, and a result on the limit must not fail by the last bit.
    value = round(measured, 9)
    low, high = (None if end is None else round(end, 9) for end in interval)
    return Requirement(
        requirement=requirement,
        measured=value,
        bound=bound,
        limit=limit,
        unit=unit,
        passed=value <= limit if bound == "at most" else value >= limit,
        low=low,
        high=high,
    )
