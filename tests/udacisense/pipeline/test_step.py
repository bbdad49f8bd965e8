"""A step that fails, or that leaves what the next one cannot take."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from pipeline_cases import CALLS, SPEC, fail, nudge, pipeline
from torch import nn
from training_cases import build

from udacisense.errors import InputError, StageError
from udacisense.stages import StepContext, StepResult, apply_dynamic_quantization, apply_graph_optimization


@pytest.mark.parametrize(
    ("how", "code", "cause"),
    [
        ("training", 1, "the loss is nan"),
        ("input", 2, "no such thing"),
        ("bug", 1, "ZeroDivisionError: division by zero"),
        ("disk", 2, "No space left on device"),
    ],
)
def test_a_failing_step_names_itself_the_cause_and_what_is_kept(
    tmp_path: Path, how: str, code: int, cause: str
) -> None:
    made = pipeline().add_step(step_name="first", step_function=nudge)
    made.add_step(step_name="second", step_function=nudge, by=2.0)
    made.add_step(step_name="broken", step_function=fail, how=how)
    with pytest.raises(StageError) as caught:
        made.run(output_dir=tmp_path)
    message = str(caught.value)
    assert "Step 'broken' (3 of 3) failed" in message
    assert cause in message
    assert f"kept in {tmp_path / 'steps'}: first, second" in message
    assert caught.value.exit_code == code
    assert not (tmp_path / "artifact").exists()
    assert not (tmp_path / "final.pt").exists()


def test_a_failing_step_without_a_folder_says_that_nothing_is_kept() -> None:
    with pytest.raises(StageError, match="nothing is kept"):
        pipeline().add_step(step_name="broken", step_function=fail).run()


def wrong_type(model: nn.Module, context: StepContext) -> StepResult:
    return model  # type: ignore[return-value]


def in_place(model: nn.Module, context: StepContext) -> StepResult:
    with torch.no_grad():
        model.classifier[1].bias += 1
    return StepResult(model=model)


def not_finite(model: nn.Module, context: StepContext) -> StepResult:
    made = nudge(model, context, by=float("nan"))
    return StepResult(model=made.model)


def other_classes(model: nn.Module, context: StepContext) -> StepResult:
    spec = dataclasses.replace(SPEC, options={**SPEC.options, "num_classes": 4})
    return StepResult(model=build(spec), spec=spec)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (wrong_type, "returns a StepResult"),
        (in_place, "changed the weights of the model it was given"),
        (not_finite, "not finite"),
        (other_classes, r"answers \(1, 4\) to one image, not \(1, 3\)"),
    ],
)
def test_a_step_that_breaks_the_contract_is_refused(step, words: str) -> None:
    with pytest.raises(StageError, match=words):
        pipeline().add_step(step_name="bad", step_function=step).run()


def test_steps_in_an_impossible_order_are_refused_before_anything_runs() -> None:
    CALLS.clear()
    made = pipeline().add_step(step_name="nudge", step_function=nudge)
    made.add_step(step_name="graph", step_function=apply_graph_optimization)
    made.add_step(step_name="int8", step_function=apply_dynamic_quantization)
    with pytest.raises(InputError, match="'int8' takes a model that is eager float"):
        made.run()
    assert CALLS == []
