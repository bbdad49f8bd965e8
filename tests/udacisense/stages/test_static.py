from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import pytest
import torch
from training_cases import (
    batches,
    coloured,
    mobilenet_spec,
    step_context,
    tiny_spec,
    trained_like,
)

from udacisense.base.tensors import supported_engines
from udacisense.data.batches import normalise
from udacisense.errors import InputError
from udacisense.measure.recording import is_quantized
from udacisense.stages import static
from udacisense.stages.recipe import recipe_sha256
from udacisense.stages.static import (
    NotTraceableError,
    apply_static_quantization,
    calibrate,
    choose_float_modules,
    first_images,
    mixtures,
    static_int8,
    stays_float,
)

ENGINE = supported_engines()[0]
IMAGES = normalise(coloured(24, seed=4).pixels)
CONTEXT = step_context(batches(32))


def test_noise_is_measured_on_mixtures(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the images themselves, which it was trained on, a network is too sure for int8 to show."""
    asked_of: list[torch.Tensor] = []

    def sure_of_images_alone(
        model: torch.nn.Module, engine: str, recipe: Mapping[str, torch.Tensor], *, asked: torch.Tensor
    ) -> torch.Tensor:
        del engine
        asked_of.append(asked)
        answers = model(asked)
        return answers if stays_float(recipe) or torch.equal(asked, IMAGES) else -answers

    monkeypatch.setattr(static, "_answers", sure_of_images_alone)
    assert len(choose_float_modules(trained_like(tiny_spec()), ENGINE, IMAGES, most=1)[0]) == 1
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
    assert choose_float_modules(model, ENGINE, IMAGES, most=3, wanted_sqnr_db=-100.0)[0] == ()
    assert choose_float_modules(model, ENGINE, IMAGES, most=0) == ((), None)


@pytest.mark.parametrize(("wanted_db", "count"), [(-100.0, 1), (1000.0, 3)])
def test_the_step_calibrates_for_the_blocks_that_it_chose_and_not_twice(
    wanted_db: float, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, ...]] = []

    def counted(*given: object, float_modules: Sequence[str] = (), **named: object) -> dict[str, torch.Tensor]:
        calls.append(tuple(float_modules))
        return calibrate(*given, float_modules=float_modules, **named)

    monkeypatch.setattr(static, "calibrate", counted)
    monkeypatch.setattr(static, "choose_float_modules", partial(choose_float_modules, wanted_sqnr_db=wanted_db))
    model = trained_like(tiny_spec())
    result = apply_static_quantization(model, CONTEXT, engine=ENGINE, max_float_blocks=1)
    assert result.source is not None
    kept = stays_float(result.source.recipe)
    # As it is; and where that does not do: to rank the blocks, with the worst in float32, and for that one by "fitted".
    assert len(calls) == count + bool(kept)
    fresh = calibrate(model, ENGINE, first_images(CONTEXT, 128).split(16), float_modules=kept)
    assert recipe_sha256(result.source.recipe) == recipe_sha256(fresh)


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
