"""Running one pipeline step and holding it to the contract of :mod:`udacisense.stages.contract`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from udacisense.base.records import ModelSpec, Scalar
from udacisense.errors import InputError, StageError, UdacisenseError
from udacisense.measure.metrics import inference
from udacisense.pipeline.store import StepStore
from udacisense.stages.contract import Kind, Stage, StepContext, StepFunction, StepResult, kind_of
from udacisense.stages.distill import apply_knowledge_distillation, learns_apart
from udacisense.stages.table import STAGES
from udacisense.training.checkpoint import state_sha256
from udacisense.training.run import spec_text


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step of a pipeline: a function with its options."""

    name: str
    function: StepFunction
    options: Mapping[str, object]

    @property
    def row(self) -> Stage | None:
        """The row of :data:`STAGES`; None for a user's own function."""
        return next((row for row in STAGES.values() if row.function is self.function), None)

    @property
    def is_apart(self) -> bool:
        """Whether its result depends on its options and the training images alone, not on the model before it."""
        return self.function is apply_knowledge_distillation and learns_apart(self.options)

    def described(self) -> dict[str, Scalar]:
        """Return the options as a record's config: scalars as they are, the rest in words."""
        return {key: _words(value) for key, value in self.options.items()}

    def require(self, kind: Kind) -> None:
        """Refuse a model in a form that the step cannot work on.

        Raises:
            InputError: with the forms it takes.
        """
        row = self.row
        if row is not None and kind not in row.requires:
            raise InputError(
                f"The step {self.name!r} takes a model that is {' or '.join(sorted(map(str, row.requires)))}, and "
                f"would get one that is {kind}; put it earlier."
            )


def perform(step: Step, model: nn.Module, context: StepContext) -> StepResult:
    """Run a step: requires → call → ensures, on the result.

    Raises:
        InputError: the model is in a form that the step does not take.
        StageError: what the step returned breaks its contract.
        Exception: whatever the step itself raised.
    """
    step.require(kind_of(model))
    before = state_sha256(model)
    result = step.function(model, context, **step.options)
    if not isinstance(result, StepResult) or not isinstance(result.model, nn.Module):
        raise StageError(f"It returned {type(result).__name__}; a step function returns a StepResult with a module.")
    if state_sha256(model) != before:
        raise StageError("It changed the weights of the model it was given; a step works on a copy.")
    kind = kind_of(result.model)
    if step.row is not None and kind is not step.row.produces:
        raise StageError(f"It returned a model that is {kind}; its row in STAGES says {step.row.produces}.")
    _check_answers(result.model, context)
    return result


def failure(steps: Sequence[Step], index: int, exc: Exception, store: StepStore | None) -> StageError:
    """Return a step's failure in words: which (``index`` counts from 1), the cause, and what is kept where."""
    step, done = steps[index - 1], [s.name for s in steps[: index - 1]]
    cause = str(exc) if isinstance(exc, UdacisenseError | OSError) else f"{type(exc).__name__}: {exc}"
    if store is None:
        kept = "No output folder was given, so nothing is kept."
    elif done:
        kept = f"Finished and kept in {store.root}: {', '.join(done)}; the same command goes on after them."
    else:
        kept = f"No step was finished before it; what it had done is in {store.work}."
    code = exc.exit_code if isinstance(exc, UdacisenseError) else 2 if isinstance(exc, OSError) else 1
    return StageError(
        f"Step {step.name!r} ({index} of {len(steps)}) failed: {cause.rstrip('.')}. {kept}", exit_code=code
    )


def _check_answers(model: nn.Module, context: StepContext) -> None:
    with inference(model):
        logits = model(context.example)
    wanted = (1, len(context.class_names))
    if tuple(logits.shape) != wanted:
        raise StageError(f"It returned a model that answers {tuple(logits.shape)} to one image, not {wanted}.")
    if not bool(torch.isfinite(logits).all()):
        raise StageError("It returned a model whose logits are not finite.")


def _words(value: object) -> Scalar:
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return spec_text(value) if isinstance(value, ModelSpec) else type(value).__name__
