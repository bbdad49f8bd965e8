"""A network that rounds as a PT2E program holds the recipe's numbers, and answers as the network does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from exporters.bundle.qdq import in_steps
from udacisense.models.artifact import load_artifact
from udacisense.stages.recipe import rounding_network
from udacisense.zoo.table import zoo_folder

ENGINE = "qnnpack"


def test_a_program_has_the_scales_of_the_recipe_and_no_weight_of_minus_128() -> None:
    _, model = load_artifact(Path("tiny"))
    recipe = load_file(zoo_folder("tiny") / f"static-int8-{ENGINE}.safetensors")
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    network, layers = rounding_network(model, ENGINE, example=images[:1], activations=recipe)
    program = in_steps(network, images, packed=False)
    steps = torch.ops.quantized_decomposed
    rounded = {n.args[1:5] for n in program.graph.nodes if n.target is steps.quantize_per_tensor.default}
    pairs = [value.tolist() for name, value in recipe.items() if name.startswith("activation_")]
    wanted = sorted((pair[0], pair[1] - 128, -128, 127) for pair in pairs)
    for got, numbers in zip(sorted(rounded), wanted, strict=True):
        assert got == (pytest.approx(numbers[0]), *numbers[1:])
    weights = [n.args for n in program.graph.nodes if n.target is steps.quantize_per_channel.default]
    assert len(weights) == len(layers)
    assert {args[4:6] for args in weights} == {(-127, 127)}
    assert all(len(n.users) == 1 for n in program.graph.nodes if "dequantize" in str(n.target))
    with torch.no_grad():
        got, expected = program(images), network(images)
    # A step of the last quantiser here and there, from the weights of -128.
    assert (got - expected).abs().max() <= 6 * float(max(p[0] for p in wanted))
    assert (got.argmax(1) == expected.argmax(1)).all()
