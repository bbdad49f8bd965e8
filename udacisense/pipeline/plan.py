"""A pipeline by name, ready to run: whatever does not fit is refused here, before hours of training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

from torch import nn

from udacisense.base.records import Artifact, ModelSpec, Scalar, Signature
from udacisense.data.images import DataSet
from udacisense.measure.estimate import Estimate
from udacisense.models.answers import check_trains
from udacisense.models.build import build_model
from udacisense.models.libraries import at_lower_resolution, is_library
from udacisense.pipeline.initial import check_student_init
from udacisense.pipeline.recipes import PipelineRecipe, RecipeStep, find_pipeline
from udacisense.pipeline.run import OptimizationPipeline
from udacisense.pipeline.start import PipelineOptions, load_baseline, start_pipeline
from udacisense.stages.distill import apply_knowledge_distillation, refuse_larger, student_spec
from udacisense.stages.prune import apply_structured_pruning
from udacisense.stages.quantize import apply_dynamic_quantization, quantized_engine
from udacisense.stages.static import apply_static_quantization
from udacisense.training.losses import check_distillation
from udacisense.training.run import estimate_training
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
    if recipe.name == "p1" and options.student is None and ":" in start.spec.architecture:
        steps[0] = RecipeStep(
            name="prune", function=apply_structured_pruning, options=options.given("epochs", "learning_rate")
        )
    for step in steps:
        if step.function is apply_knowledge_distillation:
            _check_distillation(step, start.signature, start.model)
    pipeline = start_pipeline(recipe.name, start, dataset, options, sources)
    for step in steps:
        pipeline.add_step(step_name=step.name, step_function=step.function, **step.options)
    return pipeline


def choose_student(
    recipe: PipelineRecipe,
    baseline: Artifact,
    *,
    student: str | None,
    resolution_px: int | None,
    options: Mapping[str, Scalar],
) -> ModelSpec | None:
    """Return the student of a pipeline for a baseline; None: the recipe's own.

    Of a library's network p1's student is the same network at a lower resolution.

    Args:
        recipe: the pipeline.
        baseline: what it starts from.
        student: a preset, ``torchvision/NAME`` or ``timm/NAME``; None: not asked for.
        resolution_px: edge that the student sees; None: its own.
        options: of the function that builds the student.

    Raises:
        InputError: the student is unknown, or an option does not fit.
    """
    if student is None and recipe.name == "p1" and is_library(baseline.model.architecture):
        lower = at_lower_resolution(baseline.model, resolution_px)
        return ModelSpec(architecture=lower.architecture, options={**lower.options, **options})
    if student is None and resolution_px is None and not options:
        return None
    usual = recipe.steps[0].options
    own_px = None if student is not None and is_library(student) else usual.get("student_resolution_px")
    asked = {
        **usual,
        "student": student or usual["student"],
        "student_resolution_px": resolution_px or own_px,
        "student_options": options,
    }
    signature = baseline.signature
    return student_spec(asked, num_classes=len(signature.labels), size_px=signature.size_px)


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
    built = build_model(student)
    check_trains(built, classes=len(signature.labels), size_px=signature.size_px)
    refuse_larger(built, cast("Teacher", options.get("teacher") or baseline))
    check_student_init(student, str(options.get("student_init", "auto")))


def estimate_pipeline(
    recipe: PipelineRecipe, student: ModelSpec | None, baseline: nn.Module, *, n_images: int, epochs: int | None
) -> Estimate:
    """Estimate a pipeline by its distillation, which is nearly all of it; the baseline stands for the teacher."""
    options = recipe.steps[0].options
    spec = student or student_spec(options, num_classes=10, size_px=32)  # near enough for a time
    count = epochs if epochs is not None else int(str(options["epochs"]))
    return estimate_training(spec, n_images=n_images, epochs=count, teacher=baseline)
