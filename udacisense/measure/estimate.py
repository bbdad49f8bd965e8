"""What a command will take, estimated before it is spent: seconds on this machine, and bytes on its disk.

Each planner has its own estimate beside it. Read the figures as "about".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from udacisense.measure.metrics import median_latency_ms

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """An estimate."""

    what: str  # what will be done, in a few words
    seconds: float
    disk_bytes: int
    details: tuple[str, ...] = ()  # what exactly, where that is too long for the sentence; a line each


def total(what: str, costs: Iterable[Estimate]) -> Estimate:
    """Return the sum of costs that are spent one after the other."""
    made = list(costs)
    return Estimate(what=what, seconds=sum(c.seconds for c in made), disk_bytes=sum(c.disk_bytes for c in made))


def seconds_an_image(model: nn.Module, input_shape: tuple[int, ...]) -> float:
    """Time calls of a model on inputs (N, 3, H, W), and return the seconds that an image takes."""
    return median_latency_ms(model, input_shape) / 1e3 / input_shape[0]
