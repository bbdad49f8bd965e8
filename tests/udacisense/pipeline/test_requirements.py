from __future__ import annotations

import pytest
from training_cases import figures

from udacisense.base.records import StageRecord
from udacisense.measure.stats import Interval
from udacisense.pipeline import check_requirements


@pytest.mark.parametrize(
    ("final", "passed"),
    [
        (figures(file_bytes=700, latency_ms=5.0, top1=0.837), (True, True, True)),  # each exactly on its limit
        (figures(file_bytes=701, latency_ms=5.01, top1=0.836), (False, False, False)),
        (figures(file_bytes=100, latency_ms=1.0, top1=0.99), (True, True, True)),  # a gain never fails
        (figures(file_bytes=2000, latency_ms=20.0, top1=0.887), (False, False, True)),
    ],
)
def test_requirements_on_and_beside_their_limits(final: StageRecord, passed: tuple[bool, ...]) -> None:
    rows = check_requirements(figures(), final)
    assert tuple(row.passed for row in rows) == passed


def test_requirement_rows_carry_measured_values_and_units() -> None:
    rows = check_requirements(figures(), figures(file_bytes=600, latency_ms=2.5, top1=0.9))
    assert [(r.measured, r.bound, r.limit, r.unit) for r in rows] == [
        (40.0, "at least", 30.0, "%"),
        (75.0, "at least", 50.0, "%"),
        (pytest.approx(-1.3), "at most", 5.0, "points"),
    ]


def test_the_time_requirement_has_the_interval_of_paired_rounds() -> None:
    ratio = Interval(value=0.4, low=0.3, high=0.55, pairs=10)
    time = check_requirements(figures(), figures(latency_ms=9.0), ratio)[1]
    assert (time.measured, time.low, time.high) == (60.0, 45.0, 70.0), "the rounds count, not two lone medians"
    assert time.passed
    assert time.is_in_doubt, "50 % lies between 45 and 70"
    size, alone, lost = check_requirements(figures(), figures(file_bytes=700))
    assert (size.low, size.high, size.is_in_doubt) == (30.0, 30.0, False), "a size is exact, on its limit too"
    assert (alone.low, alone.high) == (None, None)
    assert lost.low is not None
