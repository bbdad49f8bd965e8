from __future__ import annotations

import pytest
import torch
from torch import nn
from training_cases import SIZE_PX, build, mobilenet_spec, tiny_spec, trained_like

from udacisense.base.tensors import supported_engines
from udacisense.errors import InputError
from udacisense.measure.recording import is_quantized, parameter_counts
from udacisense.stages.quantize import dynamic_int8
from udacisense.training.checkpoint import state_sha256

IMAGES = torch.randn(4, 3, SIZE_PX, SIZE_PX, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("engine", supported_engines())
def test_linear_layers_become_int8_and_answers_stay_close(engine: str) -> None:
    model = trained_like(mobilenet_spec())
    before, selected = state_sha256(model), torch.backends.quantized.engine
    packed = dynamic_int8(model, engine=engine)
    assert torch.backends.quantized.engine == selected
    assert state_sha256(model) == before
    assert sum(is_quantized(m) for m in packed.modules()) == 2
    assert not any(type(m) is nn.Linear for m in packed.modules())
    assert {m.weight().dtype for m in packed.modules() if is_quantized(m)} == {torch.qint8}
    with torch.inference_mode():
        expected, answered = model(IMAGES), packed(IMAGES)
    assert 0 < (answered - expected).abs().max() < 0.05 * expected.abs().max()


def test_weights_are_within_half_a_step_of_the_float_ones() -> None:
    model = build(mobilenet_spec())
    packed = dynamic_int8(model, engine=supported_engines()[0])
    weight = model.classifier[3].weight.detach()
    step = weight.abs().max().item() / 127.5
    restored = packed.classifier[3].weight().dequantize()
    assert packed.classifier[3].weight().q_scale() == pytest.approx(step, rel=1e-5)
    assert (restored - weight).abs().max().item() <= 0.5 * step * 1.001


def test_packed_parameters_are_still_counted() -> None:
    model = build(mobilenet_spec())
    packed = dynamic_int8(model, engine=supported_engines()[0])
    assert parameter_counts(packed)[0] == parameter_counts(model)[0] == sum(p.numel() for p in model.parameters())


def test_zeroed_weights_are_counted_as_zero_before_and_after_packing() -> None:
    model = build(tiny_spec())
    with torch.no_grad():
        model.classifier[1].weight[0] = 0
        model.classifier[1].bias[:] = 1
    total, nonzero = parameter_counts(model)
    width = model.classifier[1].in_features
    # batch normalisation's biases start at 0 too
    norms = sum(m.bias.numel() for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    assert total - nonzero == width + norms
    packed_total, packed_nonzero = parameter_counts(dynamic_int8(model, engine=supported_engines()[0]))
    assert packed_total == total
    assert packed_nonzero <= nonzero


@pytest.mark.parametrize("engine", ["none", "tpu", ""])
def test_an_engine_that_this_host_lacks_is_refused_with_those_it_has(engine: str) -> None:
    with pytest.raises(InputError, match=supported_engines()[0]):
        dynamic_int8(build(tiny_spec()), engine=engine)


def test_a_model_without_linear_layers_is_refused() -> None:
    with pytest.raises(InputError, match=r"nn\.Linear"):
        dynamic_int8(nn.Sequential(nn.Conv2d(3, 4, 1)), engine=supported_engines()[0])
