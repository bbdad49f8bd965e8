"""Pipelines by name, and what runs them."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from udacisense.base.records import Artifact, ModelSpec
from udacisense.data.images import DataSet
from udacisense.pipeline.plan import plan_pipeline
from udacisense.pipeline.recipes import PIPELINES, PipelineRecipe, find_pipeline
from udacisense.pipeline.requirements import Requirement, check_requirements
from udacisense.pipeline.run import OptimizationPipeline, PipelineResult, RunRecord

__all__ = [
    "PIPELINES",
    "OptimizationPipeline",
    "PipelineRecipe",
    "PipelineResult",
    "Requirement",
    "RunRecord",
    "check_requirements",
    "find_pipeline",
    "plan_pipeline",
    "run_pipeline",
]


def run_pipeline(
    name: str,
    *,
    preset: str = "default",
    baseline: Path | tuple[nn.Module, ModelSpec],
    dataset: DataSet,
    output_dir: Path,
    student: str | ModelSpec | None = None,
    epochs: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    device: str = "cpu",
    engine: str | None = None,
    learning_rate: float | None = None,
    student_init: str | None = None,
    teacher: Path | None = None,
    transfer: Path | None = None,
    transfer_ratio: float = 3.0,
    mix: float = 0.0,
    resume: bool = True,
    allow_factory: str | None = None,
) -> Artifact:
    """Run a pipeline by name on a data set and keep it; what is where: :meth:`OptimizationPipeline.run`.

    Args:
        name: ``p1``, ``p2``, ``p2-int8`` or a full name.
        preset: ``default``, or ``report`` for the stages and settings of the report that this product started from.
        baseline: an artifact's folder, or a trained model with its spec.
        dataset: its training images are split 9 : 1 for selection; its test images give the figures, nothing else.
        output_dir: where everything is kept.
        student: a preset's name or a spec, instead of the recipe's.
        epochs: of distillation, instead of the recipe's.
        batch_size: of training.
        seed: of the run.
        device: where training runs.
        learning_rate: of distillation, instead of the recipe's.
        student_init: the student's initial weights; see :func:`apply_knowledge_distillation`.
        teacher: an artifact's folder or an ``.onnx`` file that teaches instead of the baseline; see
            :func:`udacisense.training.teachers.load_teacher`.
        transfer: a folder of unlabelled images that the teacher speaks about as well.
        transfer_ratio: transfer images for each labelled one in an epoch.
        mix: fraction of the images that are blended with another one; it needs ``transfer``.
        engine: quantised engine to pack int8 weights for; None takes the one that PyTorch prefers here.
        resume: take finished steps and checkpoints of the same configuration from ``output_dir``.
        allow_factory: the one ``package.module:factory`` that the baseline's, or the teacher's, record may import.

    Returns:
        The artifact in ``output_dir/artifact``; :func:`check_requirements` of its ``baseline`` and ``stages[-1]``
        is the requirement table.

    Raises:
        InputError, LoadError: the name, the baseline, the data or an option does not fit.
        StageError: a step failed.
    """
    pipeline = plan_pipeline(
        name,
        preset=preset,
        baseline=baseline,
        dataset=dataset,
        student=student,
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        engine=engine,
        learning_rate=learning_rate,
        student_init=student_init,
        teacher=teacher,
        transfer=transfer,
        transfer_ratio=transfer_ratio,
        mix=mix,
        allow_factory=allow_factory,
    )
    artifact = pipeline.run(device, output_dir=output_dir, resume=resume).artifact
    assert artifact is not None, "the baseline and every student of a recipe have a spec"
    return artifact
