"""Statistics against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from udacisense.measure.stats import ratio, spread_fraction, summarise, unpaired_ratio


def test_quantiles_of_a_hand_computed_list() -> None:
    # 1 … 11: the p-quantile of the linear definition is 1 + 10 p.
    summary = summarise([float(v) for v in range(1, 12)])
    assert summary.median_ms == 6.0
    assert summary.p90_ms == 10.0
    assert summary.p99_ms == pytest.approx(10.9)
    assert summary.iqr_fraction == pytest.approx((8.5 - 3.5) / 6)
    assert summary.noisy


def test_drift_is_last_tenth_over_first_tenth() -> None:
    samples = [2.0] * 10 + [2.1] * 80 + [2.3] * 10
    assert summarise(samples).drift_fraction == pytest.approx(0.15)
    assert summarise(samples).noisy
    assert summarise(samples[::-1]).drift_fraction == pytest.approx(2.0 / 2.3 - 1)
    assert summarise(samples[::-1]).noisy, "getting faster by over a tenth is drift too"


def test_few_samples_have_no_drift() -> None:
    assert summarise([1.0] * 9 + [1.5]).drift_fraction == 0.0


def test_steady_samples_are_not_noisy() -> None:
    summary = summarise([1.0, 1.01, 0.99, 1.02] * 25)
    assert not summary.noisy


def test_an_outlier_is_kept() -> None:
    assert summarise([1.0] * 98 + [50.0, 50.0]).p99_ms == pytest.approx(50.0)


def test_nothing_to_summarise_is_refused() -> None:
    with pytest.raises(ValueError, match="no samples"):
        summarise([])


def test_spread_between_processes() -> None:
    assert spread_fraction([2.0, 2.2, 1.9]) == pytest.approx(0.15)
    assert spread_fraction([2.0]) is None


def test_ratio_is_the_geometric_mean_of_the_rounds_ratios() -> None:
    made = ratio({0: 4.0, 1: 9.0, 7: 1.0}, {0: 2.0, 1: 3.0, 5: 1.0}, seed=0)
    assert made is not None
    assert made.pairs == 2
    assert made.value == pytest.approx(math.sqrt(2 * 3))


def test_ratio_pairs_by_round_so_that_a_slow_minute_cancels() -> None:
    slow = {r: 1.0 + (r % 3) for r in range(9)}  # the host's speed in each round
    made = ratio({r: 2.0 * s for r, s in slow.items()}, slow, seed=0)
    assert made is not None
    assert (made.value, made.low, made.high) == pytest.approx((2.0, 2.0, 2.0))
    assert not made.is_tie


def test_small_samples_use_students_interval() -> None:
    # Log ratios ln 1.9, ln 2, ln 2.1 : mean ± t(0.995, 2) · s / √3, t = 9.92484.
    logs = [math.log(v) for v in (1.9, 2.0, 2.1)]
    half = 9.92484 * float(np.std(logs, ddof=1)) / math.sqrt(3)
    made = ratio({0: 1.9, 1: 2.0, 2: 2.1}, {0: 1.0, 1: 1.0, 2: 1.0}, seed=0)
    assert made is not None
    assert made.low == pytest.approx(math.exp(np.mean(logs) - half), rel=1e-5)
    assert made.high == pytest.approx(math.exp(np.mean(logs) + half), rel=1e-5)


def test_a_neighbours_burst_is_trimmed() -> None:
    # Six log ratios 0.00, 0.01 … 0.04 and 0.50: one is cut off either end, which leaves 0.01 … 0.04. Winsorised they
    # are 0.01, 0.01, 0.02, 0.03, 0.04, 0.04 with s = 0.0137840; half = t(0.995, 3) · s · √6 / 4, t = 5.84091.
    logs = (0.02, 0.50, 0.00, 0.04, 0.01, 0.03)
    made = ratio({r: math.exp(v) for r, v in enumerate(logs)}, dict.fromkeys(range(6), 1.0), seed=0)
    assert made is not None
    assert made.low is not None
    assert made.high is not None
    half = 5.84091 * 0.0137840 * math.sqrt(6) / 4
    assert math.log(made.value) == pytest.approx(0.025)
    assert math.log(made.low) == pytest.approx(0.025 - half, rel=1e-4)
    assert math.log(made.high) == pytest.approx(0.025 + half, rel=1e-4)


def test_one_pair_has_no_interval_and_is_a_tie() -> None:
    made = ratio({3: 2.0}, {3: 1.0}, seed=0)
    assert made is not None
    assert (made.value, made.low, made.high) == (2.0, None, None)
    assert made.is_tie


def test_no_common_round_has_no_ratio() -> None:
    assert ratio({0: 1.0}, {1: 1.0}, seed=0) is None


def test_bootstrap_repeats_with_its_seed() -> None:
    a = {r: 1.0 + 0.01 * math.sin(r) for r in range(20)}
    b = {r: 1.0 + 0.01 * math.cos(3 * r) for r in range(20)}
    assert ratio(a, b, seed=1) == ratio(a, b, seed=1)
    assert ratio(a, b, seed=1) != ratio(a, b, seed=2)


@pytest.mark.parametrize("pairs", [3, 12, 20])
@pytest.mark.parametrize("bursts", [0.0, 0.1])
def test_equal_cells_are_ties_and_a_planted_slowdown_is_found(pairs: int, bursts: float) -> None:
    # Process medians with a spread of 1 % on a quiet host, or of 0.5 % where a neighbour slows one in ten by 5 to 12 %;
    # the rule must hold at every size that budgets use.
    rng = np.random.default_rng(7)
    trials, ties, found = 100, 0, 0
    for trial in range(trials):
        a, b = (dict(enumerate(_medians(rng, pairs, bursts))) for _ in range(2))
        same = ratio(a, b, seed=trial)
        slower = ratio({r: 1.05 * v for r, v in a.items()}, b, seed=trial)
        assert same is not None
        assert slower is not None
        ties += same.is_tie
        found += slower.low is not None and slower.low > 1
    assert ties >= 97
    if pairs >= 12:
        assert found >= 90


def _medians(rng: np.random.Generator, pairs: int, bursts: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    slowed = (rng.random(pairs) < bursts) * rng.uniform(0.05, 0.12, pairs)
    return np.exp(rng.normal(0, 0.005 if bursts else 0.01, pairs) + slowed)


def test_unpaired_ratio_of_two_runs() -> None:
    same = unpaired_ratio([1.0, 1.02, 0.98, 1.01], [1.0, 0.99, 1.02, 1.0])
    assert same is not None
    assert same.is_tie
    slower = unpaired_ratio([1.5, 1.52, 1.48, 1.51], [1.0, 0.99, 1.02, 1.0])
    assert slower is not None
    assert slower.value == pytest.approx(1.5, rel=0.01)
    assert not slower.is_tie
    assert unpaired_ratio([], [1.0]) is None
    single = unpaired_ratio([2.0], [1.0])
    assert single is not None
    assert single.is_tie
