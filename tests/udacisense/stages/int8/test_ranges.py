"""A range that is chosen by the answers, where they hang on small values of one channel."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from udacisense.stages.int8.ranges import fitted_ranges
from udacisense.stages.quantize import quantized_engine
from udacisense.stages.static import calibrate, prepare_with, static_int8

IMAGES = torch.rand(48, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Hanging(nn.Module):
    """Its answers are of a channel whose values are below 0.1, beside one that has values up to 10."""

    def __init__(self, *, squashed: bool) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 2, 1, bias=False), nn.Conv2d(2, 4, 8, bias=False)
        self.squash = nn.Hardsigmoid() if squashed else nn.Identity()
        with torch.no_grad():
            self.first.weight[0], self.first.weight[1] = 0.1 / 3, 10 / 3
            self.last.weight[:, 1] = 0

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.squash(torch.relu(self.first(images)))).flatten(1)


def noise(model: nn.Module, found: dict[str, Tensor]) -> float:
    int8 = static_int8(model, "qnnpack", example=IMAGES[:1], activations=found)
    expected = model(IMAGES[32:])
    return float((int8(IMAGES[32:]) - expected).square().sum() / expected.square().sum())


@pytest.mark.parametrize("squashed", [False, True])
def test_large_values_that_no_answer_hangs_on_are_cut(*, squashed: bool) -> None:
    torch.manual_seed(0)
    model = Hanging(squashed=squashed).eval()
    with torch.no_grad(), quantized_engine("qnnpack"):
        plain = calibrate(model, "qnnpack", [IMAGES[:32]], method="histogram")
        prepared = prepare_with(model, "qnnpack", example=IMAGES[:1], activations=plain)
        names = [name for name in plain if float(plain[name][0]) != 1 / 256]  # but for what a sigmoid's kernel fixes
        found = fitted_ranges(prepared, IMAGES[:32], names)
        # The first convolution's range becomes narrower, and that alone costs the answers.
        assert any(float(found[name][0]) < 0.5 * float(plain[name][0]) for name in found)
        assert noise(model, plain | found) < 0.7 * noise(model, plain)
        whole = calibrate(model, "qnnpack", [IMAGES[:32]])
        assert all(torch.equal(whole[name], plain[name]) for name in plain if name not in names)
