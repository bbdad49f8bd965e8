"""1×1 convolutions on tiny maps as products of matrices: equal, and only where they must be."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.jit import mobile

from exporters.bundle.open import opened
from exporters.bundle.reference import eager_source
from exporters.formats.pointwise import PointwiseProduct, right_on_x86, small_pointwise
from udacisense.base.tensors import save_tensors
from udacisense.cli.main import run
from udacisense.errors import InputError
from udacisense.models.artifact import load_artifact
from udacisense.stages.quantize import quantized_engine
from udacisense.stages.static import calibrate
from udacisense.zoo.table import zoo_folder


class Pooled(nn.Module):
    """A convolution on the map of a squeeze-and-excitation block, and one on a large map."""

    def __init__(self, convolution: nn.Module, *, places: tuple[int, int] = (1, 1)) -> None:
        super().__init__()
        self.large = nn.Conv2d(3, 8, 1)
        self.pool = nn.AdaptiveAvgPool2d(places)
        self.small = convolution

    def forward(self, images: Tensor) -> Tensor:
        return self.small(self.pool(self.large(images))).flatten(1)


EXAMPLE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("places", [(1, 1), (1, 3), (2, 1)])
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"groups": 2}])
def test_the_product_is_the_convolution_for_any_batch(places: tuple[int, int], options: dict[str, int]) -> None:
    torch.manual_seed(1)
    model = Pooled(nn.Conv2d(8, 12, 1, **options), places=places).eval()
    rewritten = right_on_x86(model, EXAMPLE)
    assert isinstance(rewritten.get_submodule("small"), PointwiseProduct)
    assert type(rewritten.get_submodule("large")) is nn.Conv2d
    assert type(model.small) is nn.Conv2d
    traced = torch.jit.freeze(torch.jit.trace(rewritten, EXAMPLE[:1]))
    assert [node.kind() for node in traced.graph.nodes()].count("aten::_convolution") == 1
    many = torch.randn(5, 3, 8, 8)
    assert torch.allclose(traced(many), model(many), rtol=1e-5, atol=1e-6)


def test_what_another_kernel_computes_is_left_alone() -> None:
    for convolution, places in (
        (nn.Conv2d(8, 8, 1), (2, 2)),
        (nn.Conv2d(8, 8, 1, stride=2), (1, 1)),
        (nn.Conv2d(8, 8, 1, groups=8), (1, 1)),
        (nn.Conv2d(8, 8, 3, padding=1), (1, 1)),
    ):
        model = Pooled(convolution, places=places).eval()
        assert small_pointwise(model, EXAMPLE) == {}
        assert right_on_x86(model, EXAMPLE) is model


def test_one_convolution_at_two_places_is_replaced_in_both() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 3, 1)
            self.again = nn.Sequential(nn.AdaptiveAvgPool2d(1), self.first)

        def forward(self, images: Tensor) -> Tensor:
            return (self.first(images) * self.again(images)).flatten(1)

    model = Shared().eval()
    assert small_pointwise(model, EXAMPLE) == {"first": (64, 1)}
    rewritten = right_on_x86(model, EXAMPLE)
    assert not any(isinstance(module, nn.Conv2d) for module in rewritten.modules())
    assert torch.allclose(rewritten(EXAMPLE), model(EXAMPLE), rtol=1e-5, atol=1e-6)


def test_the_float_blocks_of_a_static_int8_file_are_rewritten_too(tmp_path: Path) -> None:
    """This recipe leaves two blocks of the baseline in float32, one of them with squeeze-and-excitation."""
    artifact = shutil.copytree(zoo_folder("baseline"), tmp_path / "artifact")
    _, model = load_artifact(artifact)
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    recipe = calibrate(model, "qnnpack", [images], float_modules=("features.0", "features.1"), method="histogram")
    save_tensors(artifact / "static-int8-qnnpack.safetensors", recipe)
    line = f"--quiet export {artifact} -f ptl --precision int8-static -o {tmp_path / 'bundle'}"
    assert run(line.split()) == 0
    with opened(tmp_path / "bundle") as bundle, quantized_engine("qnnpack"):
        variant = bundle.variant("ptl-int8-static-qnnpack")
        assert variant.options["pointwise_as_products"] == 2
        lite = mobile._load_for_lite_interpreter(str(bundle.path(variant.path or "")))
        source = eager_source(bundle, variant)
        inputs = torch.from_numpy(bundle.golden_inputs()[:4].copy())
        with torch.inference_mode():
            difference = (lite(inputs) - source(inputs)).abs().max()
    assert difference < 1.0, "some steps of 0.04, of logits up to 7"


def test_a_network_that_takes_its_weight_elsewhere_too_is_refused() -> None:
    class Tied(Pooled):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) * self.small.weight.flatten()[0]

    convolution = nn.Conv2d(8, 8, 1)
    with torch.no_grad():
        convolution.weight.copy_(torch.arange(64.0).view(8, 8, 1, 1) + 1)
        convolution.weight[0, 0] = 5
    model = Tied(convolution).eval()
    # The transposed weight has the same first value, so this network survives ...
    assert torch.allclose(right_on_x86(model, EXAMPLE)(EXAMPLE), model(EXAMPLE), rtol=1e-4)

    class TiedLast(Pooled):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) * self.small.weight.flatten()[1]

    # ... and this one does not.
    with pytest.raises(InputError, match="changed the answers"):
        right_on_x86(TiedLast(convolution).eval(), EXAMPLE)
