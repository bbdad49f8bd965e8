from __future__ import annotations

import pytest
import torch
from torch.ao.quantization.quantize_fx import convert_fx
from training_cases import batches, held_back, step_context, tiny_spec, trained_like

from udacisense.base.tensors import supported_engines
from udacisense.errors import InputError
from udacisense.stages import qat
from udacisense.stages.int8.rounding import method_of
from udacisense.stages.qat import apply_quantization_aware_training
from udacisense.stages.quantize import quantized_engine
from udacisense.stages.static import quiet

CONTEXT = step_context(batches(48))


@pytest.mark.parametrize("engine", [e for e in ("fbgemm", "qnnpack") if e in supported_engines()])
def test_the_int8_model_still_decides_as_its_source_and_is_what_training_left(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained_like(tiny_spec())
    trained: list[torch.nn.Module] = []
    made = qat._recipe
    monkeypatch.setattr(qat, "_recipe", lambda network, kept: trained.append(network) or made(network, kept))
    result = apply_quantization_aware_training(model, CONTEXT, engine=engine, epochs=2, max_float_blocks=0)
    images = next(iter(held_back(24)))[0]
    with torch.no_grad(), quantized_engine(engine):
        expected, answered = model(images), result.model(images)
    agreement = (expected.argmax(1) == answered.argmax(1)).double().mean().item()
    assert agreement >= 0.75
    assert result.notes["engine"] == engine
    with torch.no_grad(), quiet(), quantized_engine(engine):
        assert torch.equal(answered, convert_fx(trained[0])(images))
    source = result.source
    assert source is not None and source.learned is not None  # noqa: PT018
    assert method_of(source.recipe) == "qat"
    weights = [m.weight for m in source.learned.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert sum(name.startswith("scales:") for name in source.recipe) == len(weights)
    assert source.learned.state_dict().keys() == model.state_dict().keys()
    assert not torch.equal(source.learned.features[0][0].weight, model.features[0][0].weight)


def test_settings_without_meaning_are_refused() -> None:
    model = trained_like(tiny_spec())
    with pytest.raises(InputError, match="1 or more epochs"):
        apply_quantization_aware_training(model, CONTEXT, epochs=0)
    with pytest.raises(InputError, match="nonsense"):
        apply_quantization_aware_training(model, CONTEXT, engine="nonsense")
