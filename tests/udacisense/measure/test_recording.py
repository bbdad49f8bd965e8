from __future__ import annotations

import torch
from torch import nn

from udacisense.measure.recording import latencies_by_turns


def test_latencies_are_taken_by_turns() -> None:
    order: list[str] = []

    class Named(nn.Module):
        def __init__(self, name: str, work: int) -> None:
            super().__init__()
            self.name, self.work = name, work

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if order[-1:] != [self.name]:
                order.append(self.name)
            return sum((images @ images).sum() for _ in range(self.work))

    slow, fast, faster = latencies_by_turns([Named("a", 60), Named("b", 1), Named("c", 1)], (1, 3, 64, 64))
    assert slow.keys() == fast.keys() == faster.keys(), "each round has all of them"
    assert min(slow.values()) > 0
    assert len(order) >= 20, "many turns, and not one block each"
