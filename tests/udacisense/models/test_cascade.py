"""A cascade of models that ship: what is said where its members stand the wrong way round."""

from __future__ import annotations

from pathlib import Path

from udacisense.measure.cascade import Figure
from udacisense.models.cascade import candidates, told_order


def test_a_member_that_is_slower_than_the_one_it_spares_is_named() -> None:
    slow, fast, near = (Figure(value=v, low=v - 1, high=v + 1) for v in (9.0, 3.0, 3.5))
    members = candidates([Path("p1"), Path("tiny")])
    assert told_order(members, (slow, fast)) == [
        "p1 takes 9 ms and tiny 3 ms; give tiny first, since a cascade asks the fast one first"
    ]
    assert told_order(members, (fast, slow)) == told_order(members, (near, fast)) == []
