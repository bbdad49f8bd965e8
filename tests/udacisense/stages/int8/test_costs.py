"""Tests for udacisense.stages.int8.costs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from udacisense.base.tensors import supported_engines
from udacisense.stages.int8.costs import cheapest_signed
from udacisense.stages.int8.watched import Watched
from udacisense.stages.quantize import quantized_engine
from udacisense.stages.static import SIGNED_BY, calibrate, static_int8

pytestmark = pytest.mark.skipif(SIGNED_BY not in supported_engines(), reason=f"this PyTorch has no {SIGNED_BY}")


class Between(nn.Module):
    """Two convolutions with an operation between them."""

    def __init__(self, channels: int, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.operation = operation
        self.first, self.last = nn.Conv2d(3, channels, 3), nn.Conv2d(channels, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.operation(self.first(images))).mean((2, 3))


class Twice(nn.Module):
    """One convolution, called on large maps and on one place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(F.hardswish(F.adaptive_avg_pool2d(self.conv(images), 1))).flatten(1)


def signed(model: nn.Module, size_px: int) -> dict[str, bool]:
    """Return, by the node of a model's static int8, whether its activation is signed in the cheapest choice."""
    torch.manual_seed(0)
    images = torch.randn(8, 3, size_px, size_px)
    recipe = calibrate(model.eval(), SIGNED_BY, [images], method="histogram")
    network = static_int8(model, SIGNED_BY, example=images[:1], activations=recipe)
    with quantized_engine(SIGNED_BY):
        shapes = Watched.run_of(network, images[:1]).shapes
    chosen = cheapest_signed(network, shapes)
    return {node.name: node in chosen for node in shapes}


def test_a_turn_is_paid_only_where_it_is_worth_it() -> None:
    """A sigmoid costs 76 instructions an element more on signed integers, two turns 30,000 and 10 an element."""
    large, small = (signed(Between(32, torch.sigmoid), size_px) for size_px in (32, 5))
    assert (large["first"], large["last"]) == (True, True)
    assert (small["first"], small["last"]) == (True, True)
    assert not large["sigmoid"]
    assert small["sigmoid"]


def test_pooling_by_windows_stays_unsigned_and_activations_follow_the_convolutions() -> None:
    """Maxima are taken of 32 channels at once."""
    chosen = {channels: signed(Between(channels, lambda maps: F.max_pool2d(maps, 2)), 32) for channels in (24, 64)}
    assert {channels: one["max_pool2d"] for channels, one in chosen.items()} == {24: False, 64: True}
    assert not signed(Between(32, lambda maps: F.avg_pool2d(maps, 2)), 32)["avg_pool2d"]
    for activation in (F.relu6, F.hardswish, F.hardsigmoid):
        assert all(signed(Between(32, activation), 32).values()), activation.__name__


@pytest.mark.parametrize("operation", [lambda maps: F.leaky_relu(maps, 0.1), F.elu, lambda maps: maps.clamp(-1, 1)])
def test_what_costs_the_same_on_both_takes_no_turn(operation: Callable[[Tensor], Tensor]) -> None:
    chosen = signed(Between(8, operation), 16)
    assert all(is_signed for name, is_signed in chosen.items() if name != "linear")


def test_windows_cost_by_their_places() -> None:
    """The answer of a large window is small, and each place of it is looked at one by one."""
    small, large = (signed(Between(64, lambda maps, k=k: F.avg_pool2d(maps, k)), 26) for k in (4, 8))
    assert not large["avg_pool2d"]
    assert not small["avg_pool2d"]


def test_what_is_cheap_takes_no_turn_for_one_small_convolution() -> None:
    """The second saves less than its turns cost, where Hardswish stands before and after it."""

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.conv = nn.Linear(48, 4096), nn.Conv2d(16, 16, 1, groups=16)

        def forward(self, images: Tensor) -> Tensor:
            maps = F.hardswish(self.linear(images.flatten(1))).reshape(-1, 16, 16, 16)
            return F.hardswish(self.conv(maps)).mean((2, 3))

    assert not any(signed(Small(), 4).values())


def test_one_module_has_one_type() -> None:
    chosen = signed(Twice(), 64)
    assert chosen["conv"] == chosen["conv_1"]
