"""A cascade: small models answer, and the next larger one is asked where they are not sure. Its thresholds and curve.

Every function is pure: probabilities, labels and times in, figures with 95 % intervals out.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from udacisense.base.records import Confidence, Count, Fraction, record
from udacisense.errors import InputError
from udacisense.measure.confidence import FloatArray, IntArray, margins

_STEPS = 20  # thresholds that are tried for each member: 0, 0.05, ..., 1
_Z = 1.959964


@record
class Figure:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


@record
class CascadePoint:
    """What one set of thresholds does on some images."""

    thresholds: tuple[Fraction, ...]  # of every member but the last: a smaller margin asks the next one
    answered: tuple[Fraction, ...]  # share of the images that each member answers
    asked_fraction: Figure  # of the images, that go past the first member
    top1_fraction: Figure
    lost_points: Figure  # top-1 below the last member's own, on the same images
    mean_ms: Figure  # of an image: the times of all members that it passes


@record
class Wish:
    """What the thresholds were chosen for; None: not asked for."""

    max_points_lost: float | None
    max_mean_ms: float | None
    max_asked_fraction: float | None


@record
class Member:
    """One model of a cascade."""

    name: str
    artifact: str  # folder within the cascade's, or the name of a model that ships
    sha256: str  # of its weights
    confidence: Confidence
    threshold: Fraction | None  # a smaller margin asks the next member; None: the last one
    latency_ms: Figure  # eager PyTorch, batch 1, one thread; all members by turns
    top1_fraction: Figure  # alone, on the test images


@record
class Cascade:
    """``cascade.json``: the members, and how sure each must be to answer."""

    schema_version: Literal[1]
    name: str
    rule: Literal["margin"]  # the best probability minus the second best, at the member's temperature
    members: tuple[Member, ...]  # in the order of asking
    wish: Wish
    data: str
    n_held_back: Count  # images that the thresholds were chosen on
    n_test: Count
    curve: tuple[CascadePoint, ...]  # on the held-back images, from fast to slow; none is slower and no better
    chosen: CascadePoint  # of the curve
    test: CascadePoint  # the chosen thresholds on the test images, which nothing was chosen on
    notes: tuple[str, ...]  # what speaks against taking the figures at their word

    FILE_NAME: ClassVar[str] = "cascade.json"


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What every member says of the same images."""

    probabilities: Sequence[FloatArray]  # of each member: float64 (n, C), at its temperature
    labels: IntArray  # (n,)

    def decide(self, thresholds: Sequence[float]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return who answers each image, and what: (n,), (n,)."""
        return decide(self.probabilities, thresholds)


def decide(
    probabilities: Sequence[FloatArray], thresholds: Sequence[float]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Ask one member after the other until one is sure.

    Args:
        probabilities: of each member, (n, C).
        thresholds: of every member but the last; a margin of at least that is sure.

    Returns:
        The number of the member that answers each image, and its answer: (n,), (n,).
    """
    who = np.zeros(len(probabilities[0]), dtype=np.intp)
    for number, threshold in enumerate(thresholds):
        who[(who == number) & (margins(probabilities[number]) < threshold)] = number + 1
    answers = np.stack([found.argmax(axis=1) for found in probabilities])
    return who, answers[who, np.arange(len(who))]


def try_thresholds(answers: Answers, thresholds: Sequence[float], times_ms: Sequence[Figure]) -> CascadePoint:
    """Return what thresholds do on these images."""
    who, answer = answers.decide(thresholds)
    right, last = answer == answers.labels, answers.probabilities[-1].argmax(axis=1) == answers.labels
    passed = [who >= number for number in range(len(answers.probabilities))]
    shares = [proportion(found) for found in passed]
    return CascadePoint(
        thresholds=tuple(float(value) for value in thresholds),
        answered=tuple(float((who == number).mean()) for number in range(len(passed))),
        asked_fraction=shares[1],
        top1_fraction=proportion(right),
        lost_points=_lost(last, right),
        mean_ms=Figure(
            value=sum(share.value * time.value for share, time in zip(shares, times_ms, strict=True)),
            low=times_ms[0].low + sum(s.low * t.low for s, t in zip(shares[1:], times_ms[1:], strict=True)),
            high=times_ms[0].high + sum(s.high * t.high for s, t in zip(shares[1:], times_ms[1:], strict=True)),
        ),
    )


def draw_curve(answers: Answers, times_ms: Sequence[Figure]) -> tuple[CascadePoint, ...]:
    """Return the thresholds that no others beat in both time and accuracy, from fast to slow."""
    steps = [step / _STEPS for step in range(_STEPS + 1)]
    tried = [try_thresholds(answers, t, times_ms) for t in itertools.product(steps, repeat=len(times_ms) - 1)]
    tried.sort(key=lambda point: (point.mean_ms.value, -point.top1_fraction.value, point.thresholds))
    kept: list[CascadePoint] = []
    for point in tried:
        if not kept or point.top1_fraction.value > kept[-1].top1_fraction.value:
            kept.append(point)
    return tuple(kept)


def choose(curve: Sequence[CascadePoint], wish: Wish) -> CascadePoint:
    """Return the point that fulfils a wish: the fastest where points lost are limited, else the most accurate.

    Raises:
        InputError: none does.
    """

    def fulfils(point: CascadePoint) -> bool:
        limits = (
            (point.lost_points.value, wish.max_points_lost),
            (point.mean_ms.value, wish.max_mean_ms),
            (point.asked_fraction.value, wish.max_asked_fraction),
        )
        return all(limit is None or round(value, 9) <= limit for value, limit in limits)

    fitting = [point for point in curve if fulfils(point)]
    if not fitting:
        fast, best = curve[0], curve[-1]
        raise InputError(
            f"No thresholds fulfil the wish. The fastest take {fast.mean_ms.value:.3g} ms, ask for "
            f"{100 * fast.asked_fraction.value:.0f} % and lose {fast.lost_points.value:.1f} points; the most accurate "
            f"take {best.mean_ms.value:.3g} ms, ask for {100 * best.asked_fraction.value:.0f} % and lose "
            f"{best.lost_points.value:.1f}: allow more, or give other members."
        )
    return fitting[0] if wish.max_points_lost is not None else fitting[-1]


def proportion(found: NDArray[np.bool_]) -> Figure:
    """Return the share of images (n,) that are true, with Wilson's interval."""
    from udacisense.measure.metrics import wilson_interval

    low, high = wilson_interval(int(found.sum()), len(found))
    return Figure(value=float(found.mean()), low=low, high=high)


def median_time(rounds: Mapping[int, float]) -> Figure:
    """Return the median over rounds (ms); the interval is from the second to the last but one (98 % of ten rounds)."""
    ordered = sorted(rounds.values())
    inner = ordered[1:-1] if len(ordered) > 3 else ordered
    return Figure(value=float(np.median(ordered)), low=inner[0], high=inner[-1])


def _lost(reference: NDArray[np.bool_], right: NDArray[np.bool_]) -> Figure:
    """Return points of top-1 lost on the same images, by the adjusted Wald interval of Bonett and Price (2012)."""
    n = len(right)
    worse, better = int((reference & ~right).sum()), int((right & ~reference).sum())
    p, q = (worse + 1) / (n + 2), (better + 1) / (n + 2)
    half = _Z * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    return Figure(value=100 * (worse - better) / n, low=100 * (p - q - half), high=100 * (p - q + half))
