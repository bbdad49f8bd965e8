from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from udacisense.base.tensors import supported_engines
from udacisense.models.resizing import MOST_SOURCE_PX, interpolate
from udacisense.stages.graph import trace_and_freeze
from udacisense.stages.quantize import quantized_engine
from udacisense.stages.static import calibrate, static_int8


class Products(TorchFunctionMode):
    """Notes which products were computed."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += func is torch.matmul
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("size", [(128, 128), (224, 224), (33, 70), (7, 5), (1, 1), 40])
@pytest.mark.parametrize("source", [(32, 32), (3, 64), (1, 1)])
def test_products_are_the_operators_numbers(source: tuple[int, int], size: tuple[int, int] | int) -> None:
    maps = torch.randn(2, 3, *source, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    with Products() as products:
        found = interpolate(maps, size=size, mode="bilinear", align_corners=False)
    assert products.count == 2
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)  # places of float32 on an axis of 64


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "nearest"},
        {"mode": "bicubic"},
        {"mode": "bilinear", "align_corners": True},
        {"mode": "bilinear", "antialias": True},
    ],
    ids=str,
)
def test_other_resizes_are_the_operators_own(options: dict[str, object]) -> None:
    maps = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(maps, size=(20, 20), **options)  # type: ignore[arg-type]
    with Products() as products:
        found = interpolate(maps, size=(20, 20), **options)
    assert not products.count
    assert torch.equal(found, expected)


def test_large_maps_are_left_to_the_operator() -> None:
    with Products() as products:
        interpolate(torch.zeros(1, 1, MOST_SOURCE_PX + 1, 8), size=(9, 9), mode="bilinear")
        interpolate(torch.zeros(1, 1, 8, 8), scale_factor=2, mode="bilinear")
        interpolate(torch.zeros(1, 1, 8, 8, dtype=torch.float64), size=(9, 9), mode="bilinear")
    assert not products.count


class Upsampled(nn.Module):
    """A user's own way to write it."""

    def __init__(self) -> None:
        super().__init__()
        self.upsample = nn.Upsample(size=(48, 48), mode="bilinear")
        self.convolution = nn.Conv2d(3, 4, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.convolution(self.upsample(images)).mean((2, 3))


def test_a_trace_holds_products_as_constants_and_takes_any_batch() -> None:
    model = Upsampled().eval()
    frozen = trace_and_freeze(model, torch.randn(1, 3, 32, 32))
    kinds = {node.kind() for node in frozen.graph.nodes()}
    assert "aten::matmul" in kinds
    assert not {kind for kind in kinds if "upsample" in kind or kind == "aten::eye"}
    images = torch.randn(5, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(frozen(images), model(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("engine", [engine for engine in ("fbgemm", "qnnpack") if engine in supported_engines()])
def test_a_static_int8_file_resizes_as_its_source_bit_by_bit(engine: str) -> None:
    """A rounding of the resize may become a step of the first quantiser: both sides compute the same products."""
    images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model = Upsampled().eval()
    activations = calibrate(model, engine, [images], float_modules=())
    source = static_int8(model, engine, example=images[:1], activations=activations)
    with quantized_engine(engine), torch.inference_mode():
        assert torch.equal(trace_and_freeze(source, images[:1])(images), source(images))
