from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from training_cases import coloured, mobilenet_spec, tiny_spec, trained_like

from udacisense.base.records import ModelSpec
from udacisense.base.tensors import supported_engines
from udacisense.data.batches import normalise
from udacisense.stages.int8.sensitivity import Rehearsal, sensitivities, sqnr_db, units
from udacisense.stages.static import calibrate, prepare_with, static_int8

ENGINE = supported_engines()[0]
IMAGES = normalise(coloured(24, seed=4).pixels)


def hurt(model: torch.nn.Module) -> torch.nn.Module:
    """Give one channel of the third block's output a range a thousand times that of the others."""
    depthwise, pointwise = model.features[3]  # type: ignore[index]
    del depthwise
    with torch.no_grad():
        pointwise[1].weight[0] *= 1000
        model.features[4][0][0].weight[0] /= 1000  # type: ignore[index]
    return model


def prepared_of(model: torch.nn.Module) -> torch.fx.GraphModule:
    found = calibrate(model, ENGINE, [IMAGES], method="histogram")
    return prepare_with(model, ENGINE, example=IMAGES[:1], activations=found)


def test_the_block_that_int8_hurts_comes_first() -> None:
    model = hurt(trained_like(tiny_spec()))
    found = sensitivities(model, prepared_of(model), IMAGES)
    # The wide range is quantised where the third block writes it and where the fourth reads it.
    assert {found[0].module, found[1].module} & {"features.3", "features.4"}
    assert found[0].sqnr_db < found[-1].sqnr_db - 6


@pytest.mark.parametrize(
    ("spec", "count"),
    [(tiny_spec, 1), (tiny_spec, None), (mobilenet_spec, 1), (mobilenet_spec, 3)],
    ids=["tiny, one block", "tiny, every block", "mobilenet, one block", "mobilenet, three blocks"],
)
def test_a_rehearsal_answers_as_the_int8_copy(spec: Callable[[], ModelSpec], count: int | None) -> None:
    model = trained_like(spec())
    others = units(model)[count:] if count is not None else ()
    found = calibrate(model, ENGINE, [IMAGES], float_modules=others, method="histogram")
    with torch.no_grad():
        exact, int8 = model(IMAGES), static_int8(model, ENGINE, example=IMAGES[:1], activations=found)(IMAGES)
        rehearsed = Rehearsal(prepared_of(model)).answers(IMAGES, others)
    # A value at the border of two steps may round differently from CPU to CPU, and every later block makes more of it:
    # half of int8's noise may stem from that.
    assert sqnr_db(int8, rehearsed) > sqnr_db(int8, exact) + 3


def test_a_rehearsal_without_an_int8_block_is_the_network_itself() -> None:
    model = trained_like(tiny_spec())
    everything = [name for name, _ in model.named_children()]
    with torch.no_grad():
        answered = Rehearsal(prepared_of(model)).answers(IMAGES, everything)
        torch.testing.assert_close(answered, model(IMAGES), rtol=1e-4, atol=1e-4)
