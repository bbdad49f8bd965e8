"""Who is asked, what that costs, and which thresholds fulfil a wish: by hand."""

from __future__ import annotations

import numpy as np
import pytest

from udacisense.errors import InputError
from udacisense.measure.cascade import (
    Answers,
    CascadePoint,
    Figure,
    Wish,
    choose,
    decide,
    draw_curve,
    median_time,
    try_thresholds,
)


def two_classes(*first: float) -> np.ndarray:
    return np.asarray([(value, 1 - value) for value in first])


SMALL = two_classes(0.95, 0.9, 0.55, 0.375, 0.45)  # margins 0.9, 0.8, 0.1, 0.25, 0.1
LARGE = two_classes(0.9, 0.2, 0.2, 0.9, 0.1)
LABELS = np.asarray([0, 0, 1, 0, 1])  # small: right on 0, 1, 4; large: wrong on 1 alone
TIMES = [Figure(value=1.0, low=0.9, high=1.2), Figure(value=10.0, low=9.0, high=12.0)]
ANSWERS = Answers(probabilities=[SMALL, LARGE], labels=LABELS)


def wish(*, lost: float | None = None, ms: float | None = None, asked: float | None = None) -> Wish:
    return Wish(max_points_lost=lost, max_mean_ms=ms, max_asked_fraction=asked)


def test_the_second_is_asked_below_the_threshold_and_not_at_it() -> None:
    who, answer = decide([SMALL, LARGE], [0.15])
    assert who.tolist() == [0, 0, 1, 0, 1]
    assert answer.tolist() == [0, 0, 1, 1, 1]
    assert decide([two_classes(0.75)], [])[0].tolist() == [0]
    exact = np.asarray([[0.75, 0.25]])
    assert decide([exact, exact], [0.5])[0].tolist() == [0]


def test_a_third_member_is_asked_where_the_second_is_not_sure() -> None:
    third = two_classes(0.01, 0.01, 0.01, 0.01, 0.01)
    who, answer = decide([SMALL, LARGE, third], [0.5, 0.7])
    assert who.tolist() == [0, 0, 2, 1, 1]
    assert answer.tolist() == [0, 0, 1, 0, 1]


def test_figures_of_a_point_are_those_computed_by_hand() -> None:
    point = try_thresholds(ANSWERS, [0.3], TIMES)
    assert point.answered == (0.4, 0.6)
    assert point.asked_fraction.value == 0.6
    assert point.top1_fraction.value == 1.0  # better than either alone
    assert point.lost_points.value == -20.0
    assert point.lost_points.low < -20.0 < point.lost_points.high
    assert point.mean_ms.value == pytest.approx(1 + 0.6 * 10)
    assert point.mean_ms.low == pytest.approx(0.9 + point.asked_fraction.low * 9)
    assert point.mean_ms.high == pytest.approx(1.2 + point.asked_fraction.high * 12)


def test_the_curve_holds_what_nothing_beats() -> None:
    curve = draw_curve(ANSWERS, TIMES)
    assert [point.top1_fraction.value for point in curve] == [0.6, 0.8, 1.0]
    assert [point.asked_fraction.value for point in curve] == [0.0, 0.4, 0.6]
    assert curve[0].thresholds == (0.0,)
    assert curve[-1].thresholds == (0.3,)  # the lowest of those that ask for the same images


def test_a_wish_takes_the_fastest_or_the_most_accurate() -> None:
    curve = draw_curve(ANSWERS, TIMES)

    def top1(found: CascadePoint) -> float:
        return found.top1_fraction.value

    assert top1(choose(curve, wish(lost=0.0))) == 0.8  # as good as the large one alone
    assert top1(choose(curve, wish(lost=20.0))) == 0.6
    assert top1(choose(curve, wish(ms=6.0))) == 0.8
    assert top1(choose(curve, wish(asked=0.6))) == 1.0
    assert top1(choose(curve, wish(lost=20.0, ms=5.5))) == 0.6
    with pytest.raises(InputError, match=r"The fastest take 1 ms, ask for 0 % and lose 20\.0 points"):
        choose(curve, wish(lost=0.0, ms=2.0))


def test_a_median_time_has_the_rounds_as_its_interval() -> None:
    found = median_time({0: 5.0, 1: 1.0, 2: 2.0, 3: 9.0})
    assert (found.value, found.low, found.high) == (3.5, 2.0, 5.0)
