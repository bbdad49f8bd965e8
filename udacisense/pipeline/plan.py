"""A pipeline by name, ready to run: whatever does not fit is refused here, before hours of training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

from torch import nn

from udacisense.base.records import ModelSpec, Signature
from udacisense.data.images import DataSet
from udacisense.errors import InputError
from udacisense.models.build import build_model
from udacisense.pipeline.initial import check_student_init
from udacisense.pipeline.recipes import RecipeStep, find_pipeline
from udacisense.pipeline.run import OptimizationPipeline
from udacisense.pipeline.start import load_baseline, start_pipeline
from udacisense.stages.contract import StepFunction
from udacisense.stages.distill import apply_knowledge_distillation, refuse_larger, student_spec
from udacisense.stages.quantize import apply_dynamic_quantization, quantized_engine
from udacisense.stages.static import apply_static_quantization
from udacisense.training.teachers import load_teacher
from udacisense.training.transfer import load_transfer
from udacisense.training.types import Teacher, TrainConfig


def plan_pipeline(
    name: str,
    *,
    preset: str = "default",
    baseline: Path | tuple[nn.Module, ModelSpec],
    dataset: DataSet,
    student: str | ModelSpec | None = None,
    epochs: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    engine: str | None = None,
    learning_rate: float | None = None,
    student_init: str | None = None,
    teacher: Path | None = None,
    transfer: Path | None = None,
    transfer_ratio: float = 3.0,
    mix: float = 0.0,
    allow_factory: str | None = None,
) -> OptimizationPipeline:
    """Return a pipeline by name with its steps. Everything is read and checked; nothing is trained or written.

    Args: those of :func:`udacisense.pipeline.run_pipeline`.

    Raises:
        InputError, LoadError: the name, the baseline, the data or an option does not fit.
    """
    recipe = find_pipeline(name, preset=preset)
    if engine is not None:
        with quantized_engine(engine):
            pass  # it is there
    if mix and transfer is None:
        raise InputError("Mixing needs transfer images too; give a folder of unlabelled images, or mix 0.")
    start = load_baseline(baseline, dataset, allow_factory=allow_factory)
    distilled: dict[str, object] = {
        "student": student,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "student_init": student_init,
        "teacher": _teacher(teacher, start.signature, allow_factory),
        "remember": True if transfer is not None else None,
    }
    changes: dict[StepFunction, dict[str, object]] = {
        apply_knowledge_distillation: distilled,
        apply_dynamic_quantization: {"engine": engine},
        apply_static_quantization: {"engine": engine},
    }
    steps = [_changed(step, changes.get(step.function, {})) for step in recipe.steps]
    for step in steps:
        if step.function is apply_knowledge_distillation:
            _check_distillation(step, start.signature, start.model)
    pipeline = start_pipeline(
        recipe.full_name,
        start,
        dataset,
        batch_size=batch_size,
        seed=seed,
        transfer=load_transfer(transfer, size_px=start.signature.size_px) if transfer is not None else None,
        transfer_ratio=transfer_ratio,
        mix=mix,
    )
    for step in steps:
        pipeline.add_step(step_name=step.name, step_function=step.function, **step.options)
    return pipeline


def _changed(step: RecipeStep, changes: dict[str, object]) -> RecipeStep:
    given = {key: value for key, value in changes.items() if value is not None}
    return replace(step, options={**step.options, **given})


def _check_distillation(step: RecipeStep, signature: Signature, baseline: nn.Module) -> None:
    """Refuse settings, a student and initial weights that the step itself would refuse."""
    options = step.options
    config = cast("TrainConfig", options.get("config", TrainConfig()))
    replace(config, epochs=cast("int", options["epochs"]), learning_rate=cast("float", options["learning_rate"]))
    student = student_spec(options, num_classes=len(signature.labels), size_px=signature.size_px)
    refuse_larger(build_model(student), cast("Teacher", options.get("teacher") or baseline))
    check_student_init(student, str(options.get("student_init", "auto")))


def _teacher(path: Path | None, signature: Signature, allow_factory: str | None) -> Teacher | None:
    if path is None:
        return None
    return load_teacher(
        path,
        num_classes=len(signature.labels),
        mean=signature.mean,
        std=signature.std,
        allow_factory=allow_factory,
    )
