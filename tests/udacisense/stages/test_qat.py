from __future__ import annotations

import pytest
import torch
from training_cases import CLASSES, SIZE_PX, batches, held_back, tiny_spec, trained_like

from udacisense.base.tensors import supported_engines
from udacisense.errors import InputError
from udacisense.stages.contract import StepContext
from udacisense.stages.qat import apply_quantization_aware_training
from udacisense.stages.quantize import quantized_engine

CONTEXT = StepContext(
    train=batches(48),
    validation=held_back(),
    class_names=CLASSES,
    input_shape=(1, 3, SIZE_PX, SIZE_PX),
    seed=0,
    fingerprint="f",
    work_dir=None,
    resume=False,
)


@pytest.mark.parametrize("engine", [e for e in ("fbgemm", "qnnpack") if e in supported_engines()])
def test_the_int8_model_still_decides_as_its_source(engine: str) -> None:
    model = trained_like(tiny_spec())
    result = apply_quantization_aware_training(model, CONTEXT, engine=engine, epochs=2, max_float_blocks=0)
    images = next(iter(held_back(24)))[0]
    with torch.no_grad(), quantized_engine(engine):
        expected, answered = model(images), result.model(images)
    agreement = (expected.argmax(1) == answered.argmax(1)).double().mean().item()
    assert agreement >= 0.75
    assert result.notes["engine"] == engine


def test_settings_without_meaning_are_refused() -> None:
    model = trained_like(tiny_spec())
    with pytest.raises(InputError, match="1 or more epochs"):
        apply_quantization_aware_training(model, CONTEXT, epochs=0)
    with pytest.raises(InputError, match="nonsense"):
        apply_quantization_aware_training(model, CONTEXT, engine="nonsense")
