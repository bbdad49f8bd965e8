"""A pipeline by name, ready to run: whatever does not fit is refused here, before hours of training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

from torch import nn

from udacisense.base.records import ModelSpec, Signature
from udacisense.data.images import DataSet
from udacisense.models.build import build_model
from udacisense.pipeline.initial import check_student_init
from udacisense.pipeline.recipes import RecipeStep, find_pipeline
from udacisense.pipeline.run import OptimizationPipeline
from udacisense.pipeline.start import PipelineOptions, load_baseline, start_pipeline
from udacisense.stages.distill import apply_knowledge_distillation, refuse_larger, student_spec
from udacisense.stages.quantize import apply_dynamic_quantization, quantized_engine
from udacisense.stages.static import apply_static_quantization
from udacisense.training.losses import check_distillation
from udacisense.training.supervision import Sources, load_supervision
from udacisense.training.types import Teacher, TrainConfig


def plan_pipeline(
    name: str,
    *,
    preset: str = "default",
    baseline: Path | tuple[nn.Module, ModelSpec],
    dataset: DataSet,
    options: PipelineOptions = PipelineOptions(),  # noqa: B008 - frozen
) -> OptimizationPipeline:
    """Return a pipeline by name with its steps. Everything is read and checked; nothing is trained or written.

    ``plan_pipeline(...).run(output_dir=...)`` runs and keeps it; what is where: :meth:`OptimizationPipeline.run`.

    Args:
        name: ``p1``, ``p2``, ``p2-int8`` or a full name.
        preset: ``default``, or ``report`` for the stages and settings of the report that this product started from.
        baseline: an artifact's folder, or a trained model with its spec.
        dataset: its training images are split 9 : 1 for selection; its test images give the figures, nothing else.
        options: what is asked for instead of the recipe's own settings.

    Raises:
        InputError, LoadError: the name, the baseline, the data or an option does not fit.
    """
    recipe = find_pipeline(name, preset=preset)
    if options.engine is not None:
        with quantized_engine(options.engine):
            pass  # it is there
    start = load_baseline(baseline, dataset, allow_factory=options.allow_factory)
    sources = load_supervision(options.supervision, start.signature, is_taught=True)
    steps = [changed(step, options, sources) for step in recipe.steps]
    for step in steps:
        if step.function is apply_knowledge_distillation:
            _check_distillation(step, start.signature, start.model)
    pipeline = start_pipeline(recipe.name, start, dataset, options, sources)
    for step in steps:
        pipeline.add_step(step_name=step.name, step_function=step.function, **step.options)
    return pipeline


def changed(step: RecipeStep, options: PipelineOptions, sources: Sources) -> RecipeStep:
    """Return a step with what was asked for. What was not stays out: finished steps are recognised by their options."""
    changes: dict[str, object] = {}
    if step.function is apply_knowledge_distillation:
        asked = options.supervision
        changes = options.given("student", "student_init", "epochs", "learning_rate")
        tuned = options.given("optimizer", "weight_decay", "ema_decay")
        if tuned:
            changes["config"] = replace(cast("TrainConfig", step.options.get("config", TrainConfig())), **tuned)
        found = {
            "temperature": asked.temperature,
            "alpha": asked.alpha,
            "teacher": sources.teacher,
            "remember": True if asked.transfer is not None and asked.views != "fresh" else None,
            "auxiliary": sources.auxiliary,
        }
        changes |= {key: value for key, value in found.items() if value is not None}
    elif step.function in (apply_dynamic_quantization, apply_static_quantization):
        changes = options.given("engine")
    return replace(step, options={**step.options, **changes})


def _check_distillation(step: RecipeStep, signature: Signature, baseline: nn.Module) -> None:
    """Refuse settings, a student and initial weights that the step itself would refuse."""
    options = step.options
    config = cast("TrainConfig", options.get("config", TrainConfig()))
    replace(config, epochs=cast("int", options["epochs"]), learning_rate=cast("float", options["learning_rate"]))
    check_distillation(temperature=cast("float", options["temperature"]), alpha=cast("float", options["alpha"]))
    student = student_spec(options, num_classes=len(signature.labels), size_px=signature.size_px)
    refuse_larger(build_model(student), cast("Teacher", options.get("teacher") or baseline))
    check_student_init(student, str(options.get("student_init", "auto")))
