from __future__ import annotations

import pytest

from udacisense.training.optimizers import cosine_rate


def test_cosine_rate_warms_up_and_ends_near_nothing() -> None:
    rates = [cosine_rate(step, total=100, warmup=10) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * k for k in range(1, 11)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates == rates[:10] + sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 1e-3
