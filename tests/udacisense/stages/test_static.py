from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from training_cases import CLASSES, SIZE_PX, batches, coloured, held_back, mobilenet_spec, tiny_spec, trained_like

from udacisense.base.tensors import supported_engines
from udacisense.data.batches import normalise
from udacisense.errors import InputError
from udacisense.measure.recording import is_quantized
from udacisense.stages import static
from udacisense.stages.contract import StepContext
from udacisense.stages.static import (
    NotTraceableError,
    apply_static_quantization,
    calibrate,
    choose_float_modules,
    mixtures,
    sensitivities,
    static_int8,
    stays_float,
)

ENGINE = supported_engines()[0]
IMAGES = normalise(coloured(24, seed=4).pixels)
CONTEXT = StepContext(
    train=batches(32),
    validation=held_back(),
    class_names=CLASSES,
    input_shape=(1, 3, SIZE_PX, SIZE_PX),
    seed=0,
    fingerprint="f",
    work_dir=None,
    resume=False,
)


def hurt(model: torch.nn.Module) -> torch.nn.Module:
    """Give one channel of the third block's output a range a thousand times that of the others."""
    depthwise, pointwise = model.features[3]  # type: ignore[index]
    del depthwise
    with torch.no_grad():
        pointwise[1].weight[0] *= 1000
        model.features[4][0][0].weight[0] /= 1000  # type: ignore[index]
    return model


@pytest.mark.slow
def test_the_block_that_int8_hurts_is_found_and_kept_float() -> None:
    model = hurt(trained_like(tiny_spec()))
    found = sensitivities(model, ENGINE, IMAGES)
    # The wide range is quantised where the third block writes it and where the fourth reads it.
    assert {found[0].module, found[1].module} & {"features.3", "features.4"}
    assert found[0].sqnr_db < found[-1].sqnr_db - 6
    chosen = choose_float_modules(model, ENGINE, IMAGES, most=3, wanted_sqnr_db=200.0)
    assert 0 <= len(chosen) <= 3


def test_noise_is_measured_on_mixtures(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the images themselves, which it was trained on, a network is too sure for int8 to show."""
    asked_of: list[torch.Tensor] = []

    def sure_of_images_alone(
        model: torch.nn.Module,
        engine: str,
        images: torch.Tensor,
        kept: Sequence[str],
        *,
        asked: torch.Tensor,
        method: str,
    ) -> torch.Tensor:
        del engine, method
        asked_of.append(asked)
        answers = model(asked)
        return answers if kept or torch.equal(asked, images) else -answers

    monkeypatch.setattr(static, "_answers", sure_of_images_alone)
    assert len(choose_float_modules(trained_like(tiny_spec()), ENGINE, IMAGES, most=1)) == 1
    assert torch.equal(asked_of[0], mixtures(IMAGES))


def test_mixtures_are_means_of_two_different_images() -> None:
    images = torch.eye(4).reshape(4, 1, 2, 2)
    mixed = mixtures(images)
    assert len(mixed) == 12
    assert all(sorted(row.flatten().tolist()) == [0.0, 0.0, 0.5, 0.5] for row in mixed)
    assert torch.equal(mixtures(images[:2])[0], (images[0] + images[1]) / 2)
    assert torch.equal(mixtures(images[:1]), images[:1])


def test_a_kept_block_is_float_in_the_int8_model_and_in_its_calibration() -> None:
    model = trained_like(tiny_spec())
    found = calibrate(model, ENGINE, [IMAGES], float_modules=["features.0"])
    assert stays_float(found) == ("features.0",)
    packed = static_int8(model, ENGINE, example=IMAGES[:1], activations=found)
    quantized = {name for name, module in packed.named_modules() if is_quantized(module)}
    assert not any(name.startswith("features.0.") for name in quantized)
    assert any(name.startswith("features.1.") for name in quantized)


def test_nothing_is_kept_where_decisions_stay() -> None:
    model = trained_like(tiny_spec())
    assert choose_float_modules(model, ENGINE, IMAGES, most=3, wanted_sqnr_db=-100.0) == ()
    assert choose_float_modules(model, ENGINE, IMAGES, most=0) == ()


class Views(torch.nn.Module):
    """Weighs the places of a map by a softmax over them, through view()."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Linear(8, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.conv(images)
        n, channels, height, width = maps.shape
        shares = maps.view(n, channels, height * width).softmax(-1).view(n, channels, height, width)
        return self.fc((maps * shares).sum((2, 3)))


def test_int8_maps_with_channels_last_are_viewed_as_the_model_wants_them() -> None:
    torch.manual_seed(0)
    model = Views().eval()
    packed = static_int8(model, ENGINE, example=IMAGES[:1], activations=calibrate(model, ENGINE, [IMAGES]))
    with torch.inference_mode():
        assert torch.allclose(packed(IMAGES), model(IMAGES), atol=0.2)


def test_whole_numbers_in_a_network_are_a_sentence() -> None:
    class Words(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.fc = torch.nn.Embedding(4, 8), torch.nn.Linear(8, 10)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.fc(self.words(images.mean(1).flatten(1).long().clamp(0, 3)).mean(1))

    with pytest.raises(NotTraceableError, match="take static int8 as ONNX"):
        calibrate(Words().eval(), ENGINE, [IMAGES])


@pytest.mark.parametrize("options", [{"calibration": 0}, {"max_float_blocks": -1}, {"engine": "nonsense"}])
def test_settings_without_meaning_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"allowed are|is not in this host"):
        apply_static_quantization(trained_like(mobilenet_spec()), CONTEXT, **options)  # type: ignore[arg-type]
