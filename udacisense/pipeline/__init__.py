"""Pipelines by name, and what runs them."""

from udacisense.pipeline.plan import plan_pipeline
from udacisense.pipeline.recipes import PIPELINES, PipelineRecipe, find_pipeline
from udacisense.pipeline.requirements import Requirement, check_requirements
from udacisense.pipeline.run import OptimizationPipeline, PipelineResult, RunRecord
from udacisense.pipeline.start import PipelineOptions

__all__ = [
    "PIPELINES",
    "OptimizationPipeline",
    "PipelineOptions",
    "PipelineRecipe",
    "PipelineResult",
    "Requirement",
    "RunRecord",
    "check_requirements",
    "find_pipeline",
    "plan_pipeline",
]
