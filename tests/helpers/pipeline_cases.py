"""A pipeline of one user's own steps: one that works, and one that fails in every way."""

from __future__ import annotations

import torch
from torch import nn
from training_cases import CLASSES, SIZE_PX, batches, build, held_back, tiny_spec

from udacisense.errors import InputError, TrainingError
from udacisense.pipeline import OptimizationPipeline
from udacisense.stages import StepContext, StepResult

SPEC = tiny_spec()
CALLS: list[str] = []  # of nudge


def nudge(model: nn.Module, context: StepContext, *, by: float = 1.0) -> StepResult:
    """A user's own step: a copy whose classifier's bias is moved."""
    CALLS.append("nudge")
    copied = build(SPEC)
    copied.load_state_dict(model.state_dict())
    with torch.no_grad():
        copied.classifier[1].bias += by
    return StepResult(model=copied, notes={"moved": by})


def fail(model: nn.Module, context: StepContext, *, how: str = "training") -> StepResult:
    raise {
        "training": TrainingError("the loss is nan"),
        "input": InputError("no such thing"),
        "bug": ZeroDivisionError("division by zero"),
        "disk": OSError(28, "No space left on device", "x.pt"),
    }[how]


def pipeline(*, seed: int = 0, data: str = "colours", weights: int = 0) -> OptimizationPipeline:
    return OptimizationPipeline(
        "mine",
        build(SPEC, seed=weights),
        batches(),
        held_back(),
        CLASSES,
        SIZE_PX,
        validation_loader=held_back(),
        spec=SPEC,
        seed=seed,
        data_fingerprint=data,
    )
