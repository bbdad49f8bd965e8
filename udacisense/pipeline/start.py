"""What a pipeline starts from: a trained model, and batches of the data that it was made for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import nn

from udacisense.base.records import Artifact, ModelSpec, Signature
from udacisense.data.batches import Batches, evaluation_batches
from udacisense.data.images import DataSet, make_signature
from udacisense.errors import InputError
from udacisense.models.artifact import load_artifact
from udacisense.pipeline.run import OptimizationPipeline
from udacisense.training.run import training_split
from udacisense.training.supervision import Sources, Supervision, load_supervision


@dataclass(frozen=True, kw_only=True)
class PipelineOptions:
    """What is asked of a pipeline beside its name, baseline and data; None: the recipe's own.

    Attributes:
        student: a preset's name or a spec.
        student_init: the student's initial weights; see
            :func:`udacisense.stages.distill.apply_knowledge_distillation`.
        epochs: of distillation.
        learning_rate: of distillation.
        optimizer: of distillation, ``adamw`` or ``sgd``.
        weight_decay: of distillation.
        ema_decay: of distillation, a step, of averaged weights.
        batch_size: of training.
        seed: of the run.
        engine: quantised engine to pack int8 weights for; None takes the one that PyTorch prefers here.
        supervision: who teaches instead of the baseline, on which images.
        allow_factory: the one ``package.module:factory`` that the baseline's record may import.
    """

    student: str | ModelSpec | None = None
    student_init: str | None = None
    epochs: int | None = None
    learning_rate: float | None = None
    optimizer: Literal["adamw", "sgd"] | None = None
    weight_decay: float | None = None
    ema_decay: float | None = None
    batch_size: int = 64
    seed: int = 0
    engine: str | None = None
    supervision: Supervision = field(default_factory=Supervision)
    allow_factory: str | None = None

    def given(self, *names: str) -> dict[str, Any]:
        """Return those of some options that are not None."""
        return {name: value for name in names if (value := getattr(self, name)) is not None}


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A trained model with what tells how to build and feed it."""

    model: nn.Module
    spec: ModelSpec
    signature: Signature
    artifact: Artifact | None  # None: it came from memory


def load_baseline(
    baseline: Path | tuple[nn.Module, ModelSpec], dataset: DataSet, *, allow_factory: str | None = None
) -> Baseline:
    """Return the baseline, and refuse data that it was not made for.

    Args:
        baseline: an artifact's folder, or a trained model with its spec.
        dataset: what it is to be used with.
        allow_factory: the one ``package.module:factory`` that the artifact's record may import.

    Raises:
        InputError: the data has other classes, or another size.
        LoadError: the artifact's weights are not those that were recorded.
    """
    size_px = dataset.size_px
    if not isinstance(baseline, Path):
        model, spec = baseline
        signature = make_signature(dataset.class_names, size_px=size_px)
        return Baseline(model=model, spec=spec, signature=signature, artifact=None)
    artifact, model = load_artifact(baseline, allow_factory=allow_factory)
    check_start(artifact, baseline, dataset)
    return Baseline(model=model, spec=artifact.model, signature=artifact.signature, artifact=artifact)


def check_start(
    artifact: Artifact, baseline: Path, dataset: DataSet, *, batch_size: int = 1, seeds: Sequence[int] = ()
) -> None:
    """Refuse what no run can start with.

    Args:
        artifact: of the baseline.
        baseline: its folder.
        dataset: what it is to be used with.
        batch_size: of training.
        seeds: of the run.

    Raises:
        InputError: the data has other classes, or another size; or a number is out of range.
    """
    signature = artifact.signature
    if signature.labels != dataset.class_names:
        raise InputError(
            f"The data set {dataset.name} has the classes {', '.join(dataset.class_names)}, but {baseline} was trained "
            f"for other classes, {', '.join(signature.labels)}; give the data that the baseline was made for."
        )
    if signature.size_px != dataset.size_px:
        raise InputError(
            f"The images were loaded at {dataset.size_px} px, but {baseline} takes {signature.size_px}; load them at "
            "that size."
        )
    for seed in seeds:
        Batches(dataset.train, batch_size=batch_size, seed=seed)


def start_pipeline(
    name: str, baseline: Baseline, dataset: DataSet, options: PipelineOptions, sources: Sources | None = None
) -> OptimizationPipeline:
    """Return a pipeline without steps: the training images split 9 : 1 for selection, the test images for figures.

    Args:
        name: what people call it.
        baseline: what it starts from.
        dataset: the images.
        options: batch size and seed.
        sources: transfer images that are mixed into the training batches; None: labelled images alone.
    """
    signature = baseline.signature
    images, held_back = training_split(dataset)
    given = sources or load_supervision(Supervision(), signature, is_taught=True)

    def mixed(labelled: str) -> str:
        return f"{labelled} batch_size={options.batch_size}{given.identity}"

    return OptimizationPipeline(
        name,
        baseline.model,
        given.batches(images, signature, batch_size=options.batch_size, seed=options.seed),
        evaluation_batches(dataset.test, signature),
        dataset.class_names,
        signature.size_px,
        validation_loader=evaluation_batches(held_back, signature),
        spec=baseline.spec,
        signature=signature,
        seed=options.seed,
        data_fingerprint=lambda: mixed(dataset.fingerprint),
        training_fingerprint=lambda: mixed(dataset.training_fingerprint),
    )
