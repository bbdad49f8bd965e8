"""Weights that are rounded together answer closer to the float32 network than weights that are rounded alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from exporters.source import drawn_images
from udacisense.data.batches import normalise
from udacisense.errors import InputError
from udacisense.models.artifact import load_artifact
from udacisense.stages.int8.rounding import BIAS, STEPS, fitted_rounding, method_of
from udacisense.stages.quantize import quantized_engine
from udacisense.stages.recipe import recipe_sha256, rounding_network
from udacisense.stages.static import calibrate, prepare_with, static_int8

IMAGES = normalise(drawn_images(48, 32).pixels)
SEEN, UNSEEN = IMAGES[:32], IMAGES[32:]


def noise(expected: Tensor, answered: Tensor) -> float:
    return float((expected - answered).square().sum() / expected.square().sum())


@pytest.mark.parametrize("engine", ["qnnpack", "fbgemm"])
def test_a_fitted_network_leaves_less_noise_on_unseen_images(engine: str) -> None:
    _, model = load_artifact(Path("tiny"))
    with torch.no_grad(), quantized_engine(engine):
        expected = model(UNSEEN)
        plain = calibrate(model, engine, SEEN.split(16), method="histogram")
        fitted = calibrate(model, engine, SEEN.split(16))
        networks = {
            name: static_int8(model, engine, example=SEEN[:1], activations=found)
            for name, found in (("histogram", plain), ("fitted", fitted))
        }
        answers = {name: network(UNSEEN) for name, network in networks.items()}
        drawn, _ = rounding_network(model, engine, example=SEEN[:1], activations=fitted)
        assert noise(expected, answers["fitted"]) < 0.6 * noise(expected, answers["histogram"])
        # What other runtimes' files are made from has the very same weights.
        assert noise(answers["fitted"], drawn(UNSEEN)) < noise(expected, answers["fitted"])
        packed = networks["fitted"].get_submodule("classifier.1").weight().dequantize()
        assert torch.equal(packed, drawn.get_submodule("classifier.1").weight)
    assert (method_of(fitted), method_of(plain)) == ("fitted", "histogram")
    assert recipe_sha256(fitted) != recipe_sha256({**fitted, BIAS + "classifier.1": torch.zeros(10)})


def test_weights_are_small_where_two_products_are_added_in_16_bits() -> None:
    _, model = load_artifact(Path("tiny"))
    with torch.no_grad(), quantized_engine("fbgemm"):
        found = calibrate(model, "fbgemm", [SEEN[:8]])
        packed = static_int8(model, "fbgemm", example=SEEN[:1], activations=found)
        largest = max(
            int(module.weight().int_repr().abs().max())
            for module in packed.modules()
            if hasattr(module, "weight") and callable(module.weight)
        )
    assert largest > 48
    assert 2 * 255 * largest < 2**15


class Odd(nn.Module):
    """A layer that is called twice, one whose padding is no zeros, and channels that are always zero."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.twice = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.reflected = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect", bias=False)
        self.last = nn.Linear(8, 4, bias=False)
        with torch.no_grad():
            self.first.weight[7], self.first.bias[7] = 0, -1

    def forward(self, images: Tensor) -> Tensor:
        maps = torch.relu(self.first(images))
        return self.last(self.reflected(self.twice(self.twice(maps))).mean((2, 3)))


def test_what_cannot_be_fitted_is_rounded_to_the_nearest_value() -> None:
    torch.manual_seed(0)
    model, images = Odd().eval(), SEEN[:16, :, :12, :12]
    found = calibrate(model, "qnnpack", [images])
    fitted = {name.removeprefix(STEPS) for name in found if name.startswith(STEPS)}
    assert fitted == {"first", "twice", "last"}
    with torch.no_grad(), quantized_engine("qnnpack"):
        answered = static_int8(model, "qnnpack", example=images[:1], activations=found)(images)
        assert noise(model(images), answered) < 0.2


def test_of_large_images_the_first_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    _, model = load_artifact(Path("tiny"))
    found = calibrate(model, "qnnpack", [SEEN], method="histogram")
    with torch.no_grad(), quantized_engine("qnnpack"):
        prepared = prepare_with(model, "qnnpack", example=SEEN[:1], activations=found)
        few = fitted_rounding(prepared, SEEN[:2])
        monkeypatch.setattr("udacisense.stages.int8.rounding._MOST_BYTES", 2 * 64 * 32 * 32 * 4)
        limited = fitted_rounding(prepared, SEEN)
    assert all(torch.equal(limited[name], few[name]) for name in few)


def test_another_method_is_refused() -> None:
    with pytest.raises(InputError, match=r"'up'; allowed are fitted and histogram"):
        calibrate(Odd().eval(), "qnnpack", [SEEN], method="up")  # type: ignore[arg-type]


def test_inputs_that_hardly_vary_are_calibrated_on_as_well() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2)).eval()
    alike = 500 + 1e-3 * torch.randn(8, 3, 3, 3)
    found = calibrate(model, "fbgemm", [alike])
    with torch.no_grad():
        answered = static_int8(model, "fbgemm", example=alike[:1], activations=found)(alike)
        assert noise(model(alike), answered) < 0.01
