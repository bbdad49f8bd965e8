"""Statistics of times: one process's samples, several processes' medians, and ratios between cells.

Every function is pure: numbers in, numbers out, a seed where something is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from udacisense.base.records import record

FloatArray = NDArray[np.float64]

# A cell is marked NOISY above any of them.
NOISY_IQR_FRACTION = 0.10
NOISY_DRIFT_FRACTION = 0.10
NOISY_WAITED_FRACTION = 0.05  # of the time, a thread was ready and had no core: a steady neighbour shows nowhere else
# 99 % and not 95 %: one table holds tens of comparisons, and at 95 % one in twenty differences would be chance.
CONFIDENCE = 0.99
_RESAMPLES = 9999
# Below this many pairs a bootstrap resamples too little: of equal cells it called 3 to 5 in 100 different at 99 %.
_FEWEST_FOR_BOOTSTRAP = 20
# Cut off either end of the rounds' ratios: a neighbour's burst slows one process in ten, and no file.
_TRIMMED_FRACTION = 0.2


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What one process's samples say."""

    median_ms: float
    p90_ms: float
    p99_ms: float
    iqr_fraction: float  # (p75 - p25) / median
    drift_fraction: float  # median of the last tenth over median of the first tenth, minus 1

    @property
    def noisy(self) -> bool:
        """Whether the spread or the drift is over its limit."""
        return self.iqr_fraction > NOISY_IQR_FRACTION or abs(self.drift_fraction) > NOISY_DRIFT_FRACTION


@record
class Interval:
    """An estimate with a 99 % interval; ``low`` and ``high`` are None where one pair alone was measured."""

    value: float
    low: float | None
    high: float | None
    pairs: int

    @property
    def is_tie(self) -> bool:
        """Whether 1 lies within the interval, or there is none: nobody can tell the two apart."""
        return self.low is None or self.high is None or self.low <= 1.0 <= self.high


def summarise(samples_ms: Sequence[float]) -> Summary:
    """Summarise one process's samples (ms a call, in the order of time).

    Quantiles interpolate linearly between the order statistics (numpy's default).

    Raises:
        ValueError: there are no samples.
    """
    if not samples_ms:
        raise ValueError("no samples to summarise")
    values = np.asarray(samples_ms, dtype=np.float64)
    p25, median, p75, p90, p99 = (float(q) for q in np.percentile(values, [25, 50, 75, 90, 99]))
    tenth = max(1, len(values) // 10)
    first, last = float(np.median(values[:tenth])), float(np.median(values[-tenth:]))
    # With fewer than twenty samples a tenth is one sample: its chance is not drift.
    drift = last / first - 1.0 if len(values) >= 20 else 0.0
    return Summary(median_ms=median, p90_ms=p90, p99_ms=p99, iqr_fraction=(p75 - p25) / median, drift_fraction=drift)


def spread_fraction(values: Sequence[float]) -> float | None:
    """Return (largest - smallest) / median of the processes' medians; None for fewer than two."""
    if len(values) < 2:
        return None
    return (max(values) - min(values)) / float(np.median(values))


def ratio(
    numerator: Mapping[int, float], denominator: Mapping[int, float], *, seed: int, confidence: float = CONFIDENCE
) -> Interval | None:
    """Return numerator over denominator, paired by round: the trimmed geometric mean of the ratios, with an interval.

    Both sides map a round to a process's median. A round pairs what ran close together in time, so that a slow
    minute of the host slows both sides and cancels. None where no round has both sides.

    A fifth of the log ratios is trimmed at either end (nothing below five pairs). The interval is Student's for a
    trimmed mean (Tukey and McLaughlin 1963; Yuen 1974), and from 20 pairs on the percentile bootstrap of the trimmed
    mean (Efron 1979), expanded for small samples (Hesterberg 2015, "What teachers should know about the bootstrap",
    section 5.3: its percentiles are moved out by Student's t and the factor sqrt(n / (n - 1))).

    >>> r = ratio({0: 4.0, 1: 4.0}, {0: 2.0, 1: 2.0}, seed=0)
    >>> r.value, r.low, r.high
    (2.0, 2.0, 2.0)
    """
    rounds = sorted(numerator.keys() & denominator.keys())
    if not rounds:
        return None
    logs = np.log([numerator[r] / denominator[r] for r in rounds])
    low, high = _interval(logs, confidence=confidence, seed=seed)
    return Interval(
        value=math.exp(_trimmed_mean(logs)),
        low=None if low is None else math.exp(low),
        high=None if high is None else math.exp(high),
        pairs=len(rounds),
    )


def unpaired_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Interval | None:
    """Return numerator over denominator of two independent groups of process medians.

    The value is the ratio of geometric means, the interval Welch's on the logarithms (unequal variances). None where
    a group is empty; no bounds where one has a single process.
    """
    if not numerator or not denominator:
        return None
    a, b = np.log(numerator), np.log(denominator)
    centre, low, high = float(np.mean(a) - np.mean(b)), None, None
    if min(len(a), len(b)) > 1:
        from scipy import stats

        if max(float(np.std(a)), float(np.std(b))) <= 1e-12:
            low = high = centre
        else:
            bounds = stats.ttest_ind(a, b, equal_var=False).confidence_interval(CONFIDENCE)
            low, high = float(bounds.low), float(bounds.high)
    return Interval(
        value=math.exp(centre),
        low=None if low is None else math.exp(low),
        high=None if high is None else math.exp(high),
        pairs=min(len(a), len(b)),
    )


def _trimmed_mean(values: FloatArray) -> float:
    from scipy import stats

    return float(stats.trim_mean(values, _TRIMMED_FRACTION))


def _interval(values: FloatArray, *, confidence: float, seed: int) -> tuple[float | None, float | None]:
    from scipy import stats

    n = len(values)
    if n < 2:
        return None, None
    centre = _trimmed_mean(values)
    if float(np.std(values)) <= 1e-12:  # equal but for rounding: there is no spread to tell an interval from
        return centre, centre
    if n >= _FEWEST_FOR_BOOTSTRAP:
        t = float(stats.t.ppf((1 + confidence) / 2, n - 1))
        result = stats.bootstrap(
            (values,),
            partial(stats.trim_mean, proportiontocut=_TRIMMED_FRACTION),
            confidence_level=1 - 2 * float(stats.norm.cdf(-t * math.sqrt(n / (n - 1)))),
            n_resamples=_RESAMPLES,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
        return float(result.confidence_interval.low), float(result.confidence_interval.high)
    cut = int(_TRIMMED_FRACTION * n)
    kept = n - 2 * cut
    ordered = np.sort(values)
    winsorised = np.clip(values, ordered[cut], ordered[n - 1 - cut])
    error = float(np.std(winsorised, ddof=1)) * math.sqrt(n) / kept
    half = float(stats.t.ppf((1 + confidence) / 2, kept - 1)) * error
    return centre - half, centre + half
