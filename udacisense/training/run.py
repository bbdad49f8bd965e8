"""A training run from its settings to its artifact: supervised, distilled, fine-tuning, quantisation-aware."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from udacisense.base.files import locked
from udacisense.base.records import Artifact, ModelSpec, Scalar, Signature, read_json
from udacisense.data.batches import evaluation_batches
from udacisense.data.images import DataSet, Images, make_signature, stratified_split
from udacisense.errors import InputError, foreign_cause
from udacisense.measure.counts import count_parameters
from udacisense.measure.estimate import Estimate, seconds_an_image
from udacisense.measure.metrics import confidence_of
from udacisense.measure.recording import record_stage
from udacisense.models.answers import check_trains
from udacisense.models.artifact import save_artifact
from udacisense.models.build import build_model, preset
from udacisense.models.libraries import network_facts
from udacisense.models.weights import TRAINED, initialise
from udacisense.training.checkpoint import CHECKPOINT_NAME, load_checkpoint, state_sha256
from udacisense.training.compute import is_leader, launch, meet, repeatable, together
from udacisense.training.loop import TrainingRun
from udacisense.training.supervision import Sources, Supervision, load_supervision
from udacisense.training.types import (
    AnyBatches,
    Auxiliary,
    Distillation,
    EpochRecord,
    Job,
    Keep,
    SizedBatches,
    Teacher,
    TrainConfig,
    TrainResult,
)

ARTIFACT_FOLDER = "artifact"
PROBE_IMAGES = 8  # that a step is timed on, for an estimate
_SPLIT_SEED = 0
_VALIDATION_FRACTION = 0.1


def train(
    model: nn.Module,
    batches: SizedBatches,
    *,
    config: TrainConfig,
    validation: AnyBatches | None = None,
    distillation: Distillation | None = None,
    auxiliary: Auxiliary | None = None,
    keep: Keep | None = None,
    before_epoch: Callable[[nn.Module, int], None] | None = None,
    after_epoch: Callable[[EpochRecord], None] | None = None,
    is_trained: bool = False,
) -> TrainResult:
    """Train a copy of ``model`` and return it with the weights of its best epoch.

    The best epoch is :func:`udacisense.training.types.best_epoch`; without ``validation`` it is the last. A run depends
    on its arguments alone: on one device, in 32 bits, with the same number of threads, the same call gives the same
    weights bit by bit, interrupted and resumed or not (where ``batches`` draws from its ``set_epoch`` or from torch).

    Args:
        model: eager and float32; it stays as it is.
        batches: the training batches; ``set_epoch(e)``, where it has one, is called with e = 0, 1, ....
        config: the settings, and what to compute on.
        validation: batches that select the best epoch, drive early stopping and the plateau schedule.
        distillation: the teacher, or None for labels alone.
        auxiliary: heads that train beside the model's own, or None.
        keep: where the checkpoint and ``history.json`` are written after each epoch; None keeps nothing.
        before_epoch: called with the model in training and the epoch (from 0) before each epoch, in train mode.
        after_epoch: called after each epoch that was trained, when its checkpoint is kept; what it raises ends the run.
        is_trained: the model was trained before: its weights count as epoch 0, and stay where no epoch is better.

    Raises:
        InputError: a setting, the device, or the checkpoint's settings do not fit.
        TrainingError: a loss was not finite (with the epoch, the step and the learning rate).
        LoadError: the checkpoint cannot be read.
    """
    if keep is not None:
        keep = replace(keep, identity={**_identity(model, config, distillation, auxiliary), **keep.identity})
    job = Job(
        batches=batches,
        config=config,
        validation=validation,
        distillation=distillation,
        auxiliary=auxiliary,
        keep=keep,
        before_epoch=before_epoch,
        after_epoch=after_epoch,
        is_trained=is_trained,
    )
    return _run(model, job)


def _run(model: nn.Module, job: Job) -> TrainResult:
    config, fabric = job.config, launch(job.config.compute)
    with repeatable(config.seed + fabric.global_rank, fabric.device, precision=config.compute.precision):
        run = TrainingRun(model, job, fabric)
        if job.keep is not None:
            run.open(job.keep)
        with together():
            run.go()
        return run.result()


def _identity(
    model: nn.Module, config: TrainConfig, distillation: Distillation | None, auxiliary: Auxiliary | None
) -> dict[str, Scalar]:
    found: dict[str, Scalar] = {**config.identity(), "initial_weights": state_sha256(model)}
    if distillation is not None:
        found["temperature"], found["alpha"] = distillation.temperature, distillation.alpha
        found["teacher"] = _fingerprint(distillation.teacher)
    if auxiliary is not None:
        found["auxiliary"] = f"folders={auxiliary.folders} weight={auxiliary.weight}"
        if auxiliary.teacher is not None:
            found["auxiliary_teacher"] = _fingerprint(auxiliary.teacher)
    return found


def _fingerprint(teacher: Teacher) -> str | None:
    return state_sha256(teacher) if isinstance(teacher, nn.Module) else getattr(teacher, "fingerprint", None)


def training_split(dataset: DataSet) -> tuple[Images, Images]:
    """Split the training images by class: (90 % to train on, 10 % to select models with).

    The split is the same whatever the run's seed: a teacher must not have learnt the images that select its student.
    """
    return stratified_split(dataset.train, _VALIDATION_FRACTION, seed=_SPLIT_SEED)


def images_an_epoch(dataset: DataSet, supervision: Supervision) -> int:
    """Return how many images an epoch has: those to train on, and those that come with them."""
    return round(len(training_split(dataset)[0]) * supervision.images_for_each)


def fresh_model(spec: ModelSpec, *, init: str, seed: int) -> nn.Module:
    """Build a model whose random weights depend on ``seed`` alone; see :func:`udacisense.models.weights.initialise`."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = build_model(spec)
        initialise(model, init, spec)
    return model


def train_model(
    model: str | ModelSpec,
    dataset: DataSet,
    *,
    config: TrainConfig,
    output_dir: Path,
    init: str = "none",
    batch_size: int = 64,
    name: str | None = None,
    resume: bool = False,
    supervision: Supervision = Supervision(),  # noqa: B008 - frozen
) -> Artifact:
    """Train a model on labels and keep it as an artifact; one run at a time writes to an output folder.

    ::

        output_dir/artifact/        artifact.json, model.safetensors
        output_dir/training/        checkpoint.safetensors (after each epoch), history.json

    Args:
        model: a preset's name, or a spec.
        dataset: its training images are split 9 : 1 for selection; its test images give the record's figures.
        config: the settings.
        output_dir: where to keep all of it.
        init: ``pretrained``, ``none`` or a path to a file of weights.
        batch_size: of training.
        name: of the artifact; None takes the preset's or architecture's.
        resume: go on from the checkpoint in ``output_dir``, if there is one.
        supervision: what it learns from beside the labels.

    Raises:
        InputError, LoadError, TrainingError: as :func:`train`.
    """
    spec = model if isinstance(model, ModelSpec) else _preset(model, dataset)
    untrained = fresh_model(spec, init=init, seed=config.seed)
    check_trains(untrained, classes=len(dataset.class_names), size_px=dataset.size_px)
    sources = load_supervision(supervision, signature_of(spec, dataset), is_taught=False)
    launch(config.compute)
    with locked(output_dir) if is_leader() else nullcontext():
        keep = _keep(output_dir / "training", spec, dataset, sources, batch_size=batch_size, resume=resume)
        given: dict[str, Any] = {"config": config, "keep": keep, "is_trained": init not in ("none", *TRAINED)}
        result = _supervised(untrained, spec, dataset, sources, batch_size=batch_size, **given)
        if is_leader():
            notes = {**config.described(), **supervision.described(), "batch_size": batch_size, "init": init}
            notes |= network_facts(spec).card() if init in TRAINED else {}
            notes["best_epoch"] = result.history.best_epoch
            title = name or (model if isinstance(model, str) else model.architecture)
            _save(result, dataset, title, spec, seed=config.seed, notes=notes, folder=output_dir / ARTIFACT_FOLDER)
    meet()
    return read_json(Artifact, output_dir / ARTIFACT_FOLDER / Artifact.FILE_NAME)


def _keep(folder: Path, spec: ModelSpec, dataset: DataSet, sources: Sources, *, batch_size: int, resume: bool) -> Keep:
    identity: dict[str, Scalar] = {
        "data": dataset.training_fingerprint + sources.identity,
        "batch_size": batch_size,
        "model": spec_text(spec),
    }
    former = {"data": dataset.fingerprint + sources.identity}
    return Keep(folder=folder, identity=identity, former=former, resume=resume)


def check_resume(
    spec: ModelSpec,
    dataset: DataSet,
    sources: Sources,
    *,
    config: TrainConfig,
    output_dir: Path,
    init: str,
    batch_size: int,
) -> None:
    """Refuse to go on from a checkpoint that other settings left, as :func:`train_model` would; nothing is downloaded.

    Raises:
        InputError, LoadError: as :func:`udacisense.training.checkpoint.load_checkpoint`.
    """
    folder = output_dir / "training"
    # Without a checkpoint no photo needs to be opened.
    if init in TRAINED or not (folder / CHECKPOINT_NAME).exists():
        return
    untrained = fresh_model(spec, init=init, seed=config.seed)
    keep = _keep(folder, spec, dataset, sources, batch_size=batch_size, resume=True)
    own = _identity(untrained, config, _distillation(sources), sources.auxiliary)
    load_checkpoint(folder, identity={**own, **keep.identity}, former=keep.former)


def _distillation(sources: Sources) -> Distillation | None:
    return sources.asked.distilled_by(sources.teacher) if sources.teacher is not None else None


def _supervised(
    untrained: nn.Module,
    spec: ModelSpec,
    dataset: DataSet,
    sources: Sources,
    *,
    config: TrainConfig,
    batch_size: int,
    keep: Keep,
    is_trained: bool,
) -> TrainResult:
    """Train on nine tenths of the training images and what comes with them; the last tenth selects."""
    signature = signature_of(spec, dataset)
    images, held_back = training_split(dataset)
    return train(
        untrained,
        sources.batches(images, signature, batch_size=batch_size, seed=config.seed),
        config=config,
        validation=evaluation_batches(held_back, signature),
        distillation=_distillation(sources),
        auxiliary=sources.auxiliary,
        keep=keep,
        is_trained=is_trained,
    )


def _save(
    result: TrainResult,
    dataset: DataSet,
    name: str,
    spec: ModelSpec,
    *,
    seed: int,
    notes: Mapping[str, Scalar],
    folder: Path,
) -> None:
    """Measure a trained model on the test images and write its artifact."""
    signature = signature_of(spec, dataset)
    figures = record_stage(
        result.model,
        stage="baseline",
        config=notes,
        duration_s=sum(epoch.duration_s for epoch in result.history.epochs),
        test=evaluation_batches(dataset.test, signature),
        class_names=dataset.class_names,
        input_shape=signature.input_shape,
    )
    save_artifact(
        folder,
        name=name,
        model=result.model,
        spec=spec,
        signature=signature,
        baseline=figures,
        stages=(),
        seed=seed,
        confidence=confidence_of(result.model, evaluation_batches(training_split(dataset)[1], signature)),
    )


def signature_of(spec: ModelSpec, dataset: DataSet) -> Signature:
    """Return what a model of this network that is trained on these images takes and answers."""
    facts = network_facts(spec)
    size_px = dataset.size_px
    return make_signature(dataset.class_names, size_px=size_px, mean=facts.mean, std=facts.std)


def spec_text(spec: ModelSpec) -> str:
    """Return a spec in one line."""
    return f"{spec.architecture}({', '.join(f'{key}={value}' for key, value in sorted(spec.options.items()))})"


def _preset(name: str, dataset: DataSet) -> ModelSpec:
    return preset(name, num_classes=len(dataset.class_names), size_px=dataset.size_px)


def estimate_training(
    spec: ModelSpec, *, n_images: int, epochs: int, channels_last: bool = False, teacher: nn.Module | None = None
) -> Estimate:
    """Estimate a training run on the CPU: one step on a few images is timed, nothing is kept of it.

    Raises:
        InputError: the step fails.
    """
    with torch.random.fork_rng([]):
        model = build_model(spec).train()
        images = torch.randn(PROBE_IMAGES, 3, *[int(spec.options.get("size_px") or 32)] * 2)
        if channels_last:
            model, images = model.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        try:
            seconds = min(_step_s(model, images) for _ in range(3)) / PROBE_IMAGES
        # It may be a user's code, which raises whatever it likes.
        except Exception as exc:
            raise InputError(
                f"A step of training {spec.architecture} fails: {foreign_cause(exc).rstrip('.')}. Let forward take "
                "images in training mode too, and let gradients flow from its answers to its weights."
            ) from exc
    if teacher is not None:
        seconds += seconds_an_image(teacher, tuple(images.shape))
    # The checkpoint holds the weights, the best ones and two moments of each, twice while it is replaced.
    disk_bytes = 9 * 4 * count_parameters(model)
    return Estimate(
        what=f"{epochs} epoch{'' if epochs == 1 else 's'} of {n_images:,} images",
        seconds=seconds * n_images * epochs,
        disk_bytes=disk_bytes,
    )


def _step_s(model: nn.Module, images: Tensor) -> float:
    start = time.perf_counter()
    model.zero_grad()
    model(images).sum().backward()
    return time.perf_counter() - start
