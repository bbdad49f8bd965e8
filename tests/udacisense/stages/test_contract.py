"""What holds for every row of STAGES; a new row is tested without writing a test."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from training_cases import CLASSES, batches, build, held_back, mobilenet_spec, step_context, tiny_spec

from udacisense.base.tensors import supported_engines
from udacisense.pipeline.step import Step, perform
from udacisense.stages.contract import Kind, Stage, StepResult, kind_of, plain_copy
from udacisense.stages.graph import trace_and_freeze
from udacisense.stages.quantize import dynamic_int8
from udacisense.stages.static import calibrate, static_int8
from udacisense.stages.table import STAGES
from udacisense.training.checkpoint import state_sha256

CONTEXT = step_context(batches(32))
# Defaults must work; what would only take time is cut short here.
SHORT = {"epochs": 1}
# These try every block of the network apart; test_static.py and test_qat.py have larger ones.
SEARCHED = ("static-int8", "qat")


def model_of(kind: Kind, row: Stage | None = None) -> torch.nn.Module:
    model = build(tiny_spec() if row is not None and row.name in SEARCHED else mobilenet_spec())
    if kind is Kind.EAGER_INT8:
        return dynamic_int8(model, engine=supported_engines()[0])
    return trace_and_freeze(model, CONTEXT.example) if kind is Kind.TORCHSCRIPT else model


def step_of(row: Stage) -> Step:
    known = inspect.signature(row.function).parameters
    return Step(name=row.name, function=row.function, options={k: v for k, v in SHORT.items() if k in known})


CASES = [
    pytest.param(row, kind, id=f"{row.name}-on-{kind}") for row in STAGES.values() for kind in sorted(row.requires)
]


@pytest.mark.parametrize("kind", list(Kind))
def test_the_forms_are_told_apart(kind: Kind) -> None:
    assert kind_of(model_of(kind)) is kind


@pytest.mark.parametrize(("row", "kind"), CASES)
def test_a_stage_keeps_its_contract(row: Stage, kind: Kind) -> None:
    model = model_of(kind, row)
    before = state_sha256(model)
    result = perform(step_of(row), model, CONTEXT)
    assert isinstance(result, StepResult)
    assert kind_of(result.model) is row.produces
    assert state_sha256(model) == before
    assert not getattr(result.model, "training", False)
    with torch.inference_mode():
        images = next(iter(held_back()))[0]
        logits = result.model(images)
    assert logits.shape == (len(images), len(CLASSES))
    assert torch.isfinite(logits).all()


@pytest.mark.slow
@pytest.mark.parametrize(("row", "kind"), CASES)
def test_a_stage_is_repeatable(row: Stage, kind: Kind) -> None:
    images = next(iter(held_back()))[0]
    outputs = []
    for salt in (0, 1):
        torch.manual_seed(salt)  # a stage must not draw from the generator it happens to find
        result = perform(step_of(row), model_of(kind, row), CONTEXT)
        with torch.inference_mode():
            outputs.append(result.model(images))
    assert torch.equal(outputs[0], outputs[1])


@pytest.mark.parametrize("row", STAGES.values(), ids=lambda row: row.name)
def test_a_row_is_complete(row: Stage) -> None:
    assert row.name in STAGES
    assert row.requires
    parameters = list(inspect.signature(row.function).parameters.values())
    assert [p.name for p in parameters[:2]] == ["model", "context"]
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY and p.default is not p.empty for p in parameters[2:])
    assert inspect.getdoc(row.function)


def computed(wrap: Callable[[nn.Module], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        wrap(nn.Conv2d(3, 8, 3)), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), wrap(nn.Linear(8, 10))
    )


WAYS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight_norm": nn.utils.weight_norm,
    "spectral_norm": nn.utils.spectral_norm,
    "prune": lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
    "weight_norm, a parametrisation": parametrizations.weight_norm,
    "spectral_norm, a parametrisation": parametrizations.spectral_norm,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
def test_a_weight_that_is_computed_becomes_int8_as_any_other(way: str) -> None:
    model, images = computed(WAYS[way]).eval(), torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    engine = supported_engines()[0]
    with torch.no_grad():
        expected = model(images)
        assert torch.allclose(plain_copy(model)(images), expected, atol=1e-6)
        packed = static_int8(model, engine, example=images[:1], activations=calibrate(model, engine, [images]))
        for quantized in (packed, dynamic_int8(model, engine=engine)):
            assert kind_of(quantized) is Kind.EAGER_INT8
            assert torch.allclose(quantized(images), expected, atol=0.1 * expected.abs().max().item())
        assert torch.equal(model(images), expected), "the model itself stays as it is"
    assert [kind_of(part) for part in packed.children()].count(Kind.EAGER_INT8) == 2


def test_the_encoder_of_a_transformer_is_quantised_dynamically() -> None:
    """Its fast path would read the float32 weights of layers that are int8."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model, rows = nn.TransformerEncoder(layer, 1).eval(), torch.randn(1, 4, 16)
    with torch.inference_mode():
        answered = dynamic_int8(model, engine=supported_engines()[0])(rows)
        assert torch.allclose(answered, model(rows), atol=0.1)
