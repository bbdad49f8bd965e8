"""Pipelines by name: which steps, with which settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from udacisense.errors import InputError, did_you_mean
from udacisense.stages.contract import StepFunction
from udacisense.stages.distill import apply_knowledge_distillation
from udacisense.stages.graph import apply_graph_optimization
from udacisense.stages.quantize import apply_dynamic_quantization
from udacisense.stages.static import apply_static_quantization
from udacisense.training.types import TrainConfig


@dataclass(frozen=True, kw_only=True)
class RecipeStep:
    """A step of a recipe."""

    name: str
    function: StepFunction
    options: Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class PipelineRecipe:
    """One row of :data:`PIPELINES`."""

    name: str
    full_name: str
    steps: tuple[RecipeStep, ...]
    ships_as: str | None = None  # the shipped model that it made
    report_steps: tuple[RecipeStep, ...] = ()  # as in the report that this product started from; empty: not in it


def _distill(**options: object) -> RecipeStep:
    return RecipeStep(name="distill", function=apply_knowledge_distillation, options=options)


_GRAPH = RecipeStep(name="graph", function=apply_graph_optimization, options={})
_DYNAMIC = RecipeStep(name="dynamic-int8", function=apply_dynamic_quantization, options={})
_STATIC = RecipeStep(name="static-int8", function=apply_static_quantization, options={})
# Of a network this small each block in float32 is a tenth of the file.
_STATIC_WHOLE = RecipeStep(name="static-int8", function=apply_static_quantization, options={"max_float_blocks": 0})
_P1_DISTILL = _distill(
    student="p1-student",
    student_resolution_px=128,  # a third of the time at 224 px
    temperature=3.0,
    alpha=0.7,
    epochs=15,
    learning_rate=3e-4,
    config=TrainConfig(channels_last=True),
)
_P2_DISTILL = _distill(
    student="p2-student",
    temperature=2.0,
    alpha=0.7,
    epochs=80,
    learning_rate=4e-3,
    config=TrainConfig(channels_last=True, weight_decay=1e-3, ema_decay=0.995, select_by="loss"),
)

PIPELINES: dict[str, PipelineRecipe] = {
    row.name: row
    for row in (
        PipelineRecipe(
            name="p1",
            full_name="distill_quantize_torchscript",
            ships_as="p1",
            steps=(_P1_DISTILL, _STATIC, _GRAPH),
            report_steps=(
                _distill(
                    student="p1-student",
                    temperature=3.0,
                    alpha=0.7,
                    epochs=15,
                    learning_rate=1e-3,
                    config=TrainConfig(schedule="plateau"),
                ),
                _DYNAMIC,
                _GRAPH,
            ),
        ),
        PipelineRecipe(
            name="p2",
            full_name="aggressive_speed_optimization",
            ships_as="tiny",
            steps=(_P2_DISTILL, _GRAPH),
            report_steps=(
                _distill(student="tiny", temperature=4.0, alpha=0.7, epochs=30, learning_rate=1e-3),
                _GRAPH,
            ),
        ),
        PipelineRecipe(
            name="p2-int8",
            full_name="aggressive_size_optimization",
            steps=(_P2_DISTILL, _STATIC_WHOLE, _GRAPH),
        ),
    )
}

# Pipelines that run others and join what those made into a cascade: the first member's pipeline, then the next one's.
CASCADES: dict[str, tuple[str, ...]] = {"p3": ("p2", "p1")}

PRESETS = ("default", "report")


def find_pipeline(name: str, *, preset: str = "default") -> PipelineRecipe:
    """Return a recipe by its short or its full name, with the steps of a preset.

    Raises:
        InputError: there is none of that name, or it has no such preset.
    """
    if preset not in PRESETS:
        raise InputError(f"There is no pipeline preset {preset!r}; choose one of {', '.join(PRESETS)}.")
    for recipe in PIPELINES.values():
        if name in (recipe.name, recipe.full_name):
            return recipe if preset == "default" else _as_reported(recipe)
    known = ", ".join(f"{r.name} ({r.full_name})" for r in PIPELINES.values())
    known += "".join(f", {name} ({' → '.join(members)})" for name, members in CASCADES.items())
    names = [*CASCADES, *(n for r in PIPELINES.values() for n in (r.name, r.full_name))]
    raise InputError(f"There is no pipeline {name!r}; choose one of {known}.{did_you_mean(name, names)}")


def recipe_of(name: str) -> PipelineRecipe | None:
    """Return the pipeline whose result bears this name: its own, its full one, or that of the shipped model."""
    return next((row for row in PIPELINES.values() if name in (row.name, row.full_name, row.ships_as)), None)


def short_name(name: str) -> str:
    """Return a model's one name: records that 0.1.0 kept bear the pipeline's full name."""
    return next((row.name for row in PIPELINES.values() if name == row.full_name), name)


def long_name(name: str) -> str:
    """Return a model's name with its pipeline beside it: ``tiny (p2, aggressive_speed_optimization)``."""
    recipe = recipe_of(name)
    if recipe is None:
        return name
    parts = [part for part in (recipe.name, recipe.full_name) if part != name]
    return f"{name} ({', '.join(parts)})"


def _as_reported(recipe: PipelineRecipe) -> PipelineRecipe:
    from dataclasses import replace

    if not recipe.report_steps:
        raise InputError(f"The pipeline {recipe.name!r} has no report preset; leave --preset out.")
    return replace(recipe, steps=recipe.report_steps)
