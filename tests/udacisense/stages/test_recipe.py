"""A recipe as a network that rounds answers as the int8 network of the same numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from exporters.source import drawn_images
from udacisense.data.batches import normalise
from udacisense.errors import InputError
from udacisense.models.artifact import load_artifact
from udacisense.stages.int8.rounding import RoundedActivation
from udacisense.stages.quantize import quantized_engine
from udacisense.stages.recipe import recipe_sha256, rounding_network
from udacisense.stages.static import static_int8
from udacisense.zoo.table import zoo_folder

ENGINE = "qnnpack"


def shipped() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    _, model = load_artifact(Path("tiny"))
    return model, load_file(zoo_folder("tiny") / f"static-int8-{ENGINE}.safetensors")


def test_it_answers_as_the_int8_network_of_the_recipe() -> None:
    model, recipe = shipped()
    images = normalise(drawn_images(64, 32).pixels, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    with torch.no_grad(), quantized_engine(ENGINE):
        wanted = static_int8(model, ENGINE, example=images[:1], activations=recipe)(images)
        network, names = rounding_network(model, ENGINE, example=images[:1], activations=recipe)
        got = network(images)
    assert names == {n for n, m in model.named_modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)}
    numbers = {m.numbers for m in network.modules() if isinstance(m, RoundedActivation)}
    pairs = {tuple(pair.tolist()) for name, pair in recipe.items() if name.startswith("activation")}
    for (scale, zero, low, high), pair in zip(sorted(numbers), sorted(pairs), strict=True):
        assert (scale, zero, low, high) == (pytest.approx(pair[0]), pair[1], 0, 255)
    # A rounding may fall the other way here and there.
    assert (got.argmax(1) == wanted.argmax(1)).float().mean() > 0.8


def test_another_models_recipe_is_refused() -> None:
    model, recipe = shipped()
    recipe.pop("activation_post_process_3")
    with pytest.raises(InputError, match=r"belong to another model: 'activation_post_process_3'"):
        rounding_network(model, ENGINE, example=torch.zeros(1, 3, 32, 32), activations=recipe)


def test_each_number_of_a_recipe_counts() -> None:
    _, recipe = shipped()
    same = dict(reversed(recipe.items()))
    assert recipe_sha256(same) == recipe_sha256(recipe)
    assert recipe_sha256(recipe | {"activation_post_process_3": torch.tensor([0.5, 0.0])}) != recipe_sha256(recipe)
    assert recipe_sha256(recipe | {"float32:features.1": torch.zeros(0)}) != recipe_sha256(recipe)
