"""Tests for udacisense.stages.int8.kernels."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from udacisense.base.tensors import supported_engines
from udacisense.stages.int8.sensitivity import sqnr_db
from udacisense.stages.quantize import quantized_engine
from udacisense.stages.static import SIGNED_BY, calibrate, static_int8

pytestmark = pytest.mark.skipif(SIGNED_BY not in supported_engines(), reason=f"this PyTorch has no {SIGNED_BY}")
CLAMPS: dict[str, Callable[[Tensor], Tensor]] = {
    "ReLU6": nn.ReLU6(),
    "ReLU6 in place": nn.ReLU6(inplace=True),
    "F.relu6": F.relu6,
    "Hardtanh": nn.Hardtanh(-0.5, 0.5),
    "F.hardtanh": lambda maps: F.hardtanh(maps, -0.5, 0.5),
    "torch.clamp": lambda maps: torch.clamp(maps, -0.5, 0.5),
    "a tensor's clamp": lambda maps: maps.clamp(-0.5, 0.5),
    "of rows": lambda maps: maps.flatten(2).clamp(-0.5, 0.5).reshape(maps.shape),
}


class Clamped(nn.Module):
    """A clamp between convolutions, and an answer that hangs on where each number lies."""

    def __init__(self, clamp: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.clamp = clamp
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
        self.head = nn.Linear(4 * 12 * 16, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.last(self.clamp(self.first(images))).flatten(1))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("name", CLAMPS)
def test_clamps_answer_as_in_float32(name: str, signed: bool) -> None:
    """QNNPACK's own mixes up the numbers of maps with channels last."""
    torch.manual_seed(0)
    model, images = Clamped(CLAMPS[name]).eval(), torch.randn(8, 3, 12, 16)
    recipe = calibrate(model, SIGNED_BY, [images], method="histogram")
    network = static_int8(model, SIGNED_BY, example=images[:1], activations=recipe, signed=signed)
    with torch.no_grad(), quantized_engine(SIGNED_BY):
        assert sqnr_db(model(images), network(images)) > 25


def test_nothing_drops_out_on_a_phone() -> None:
    """PyTorch Mobile has no kernel for it."""

    class Dropping(Clamped):
        def forward(self, images: Tensor) -> Tensor:
            return self.head(F.dropout(self.last(self.first(images)), 0.5, self.training).flatten(1))

    model, images = Dropping(F.relu).eval(), torch.randn(8, 3, 12, 16)
    recipe = calibrate(model, SIGNED_BY, [images], method="histogram")
    network = static_int8(model, SIGNED_BY, example=images[:1], activations=recipe)
    with torch.no_grad(), quantized_engine(SIGNED_BY):
        assert "dropout" not in str(torch.jit.trace(network, images).inlined_graph)
        assert sqnr_db(model(images), network(images)) > 25
