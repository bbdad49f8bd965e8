"""Knowledge distillation: a smaller student learns a teacher's answers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from udacisense.base.records import ModelSpec, Scalar
from udacisense.errors import InputError
from udacisense.measure.counts import count_parameters
from udacisense.models.build import preset
from udacisense.models.libraries import is_library
from udacisense.models.weights import TRAINED, load_features, put_state, read_state
from udacisense.stages.contract import StepContext, StepResult
from udacisense.training import fresh_model, train
from udacisense.training.types import Auxiliary, Distillation, SizedBatches, Teacher, TrainConfig


def apply_knowledge_distillation(
    model: nn.Module,
    context: StepContext,
    *,
    student: str | ModelSpec | nn.Module = "p1-student",
    student_resolution_px: int | None = None,
    student_width_mult: float | None = None,
    temperature: float = 3.0,
    alpha: float = 0.7,
    epochs: int | None = None,
    learning_rate: float | None = None,
    config: TrainConfig = TrainConfig(epochs=15),  # noqa: B008 - frozen
    student_init: str = "auto",
    teacher: Teacher | None = None,
    remember: bool = False,
    auxiliary: Auxiliary | None = None,
) -> StepResult:
    """Pipeline step: train a student on the labels and on the teacher's answers to each augmented batch.

    Args:
        model: the teacher, unless ``teacher`` is given; eager.
        context: training and validation batches, device and seed (those of ``config`` are replaced by them).
        student: a preset's name, a spec, or an eager module (which stays as it is).
        student_resolution_px: edge that the student sees, where ``student`` is a preset's name; None: the preset's.
        student_width_mult: likewise, of the channels of the student's features.
        temperature: T > 0; see :func:`udacisense.training.losses.distillation_loss`.
        alpha: 0..1, the weight of the teacher against the labels.
        epochs: None takes ``config.epochs``.
        learning_rate: None takes ``config.learning_rate``.
        config: every other setting of training.
        student_init: the initial weights, as :func:`_student` takes them.
        teacher: any callable from images (b, 3, H, W) to logits (b, C), for a teacher that is no step of this
            pipeline. A callable that is no module needs an attribute ``fingerprint`` (text).
        remember: ask the teacher once about each view, where views come round again.
        auxiliary: heads that train beside the student's own and are dropped afterwards.

    Raises:
        InputError: a setting is out of range, or the student is larger than the module that teaches it.
        TrainingError: a loss was not finite.
    """
    named = {"student": student, "student_resolution_px": student_resolution_px}
    found = _student({**named, "student_width_mult": student_width_mult}, student_init, model, context)
    asked: dict[str, Any] = {"epochs": epochs, "learning_rate": learning_rate}
    config = replace(config, **{name: value for name, value in asked.items() if value is not None})
    teaches = teacher if teacher is not None else model
    taught = Distillation(teacher=teaches, temperature=temperature, alpha=alpha, remember=remember)
    return _distilled(found, context, config, taught, auxiliary, is_trained=_is_file(student_init))


def _distilled(
    student: tuple[ModelSpec | None, nn.Module, str],
    context: StepContext,
    config: TrainConfig,
    taught: Distillation,
    auxiliary: Auxiliary | None,
    *,
    is_trained: bool,
) -> StepResult:
    spec, start, origin = student
    refuse_larger(start, taught.teacher)
    config = replace(config, compute=context.compute, seed=context.seed)
    result = train(
        start,
        cast("SizedBatches", context.train),
        config=config,
        validation=context.validation,
        distillation=taught,
        auxiliary=auxiliary,
        keep=context.keep,
        after_epoch=context.after_epoch,
        is_trained=is_trained,
    )
    notes: dict[str, Scalar] = {
        **config.described(),
        "temperature": taught.temperature,
        "alpha": taught.alpha,
        "student_init": origin,
        "best_epoch": result.history.best_epoch,
    }
    return StepResult(model=result.model, notes=notes, spec=spec, documents={"history": result.history})


def learns_apart(options: Mapping[str, object]) -> bool:
    """Tell whether a distillation with these options reads nothing of the model that it follows in a pipeline."""
    has_own_start = isinstance(options.get("student"), nn.Module) or options.get("student_init", "auto") != "auto"
    return options.get("teacher") is not None and has_own_start


def student_spec(options: Mapping[str, object], *, num_classes: int, size_px: int) -> ModelSpec:
    """Return the student that a step's options describe, fitted to a data set.

    Raises:
        InputError: the preset is unknown or a number is out of range.
    """
    student = options["student"]
    if isinstance(student, ModelSpec):
        return student
    return preset(
        str(student),
        num_classes=num_classes,
        resolution_px=cast("int | None", options.get("student_resolution_px")),
        size_px=size_px,
        width_mult=cast("float | None", options.get("student_width_mult")),
        options=cast("Mapping[str, Scalar]", options.get("student_options") or {}),
    )


def _is_file(init: str) -> bool:
    return init not in ("auto", "none", *TRAINED)


def _student(
    options: Mapping[str, object], init: str, teacher: nn.Module, context: StepContext
) -> tuple[ModelSpec | None, nn.Module, str]:
    """Return the student's spec, the student with its initial weights, and where these are from.

    Args:
        options: ``student``, ``student_resolution_px`` and ``student_width_mult``, as the step takes them.
        init: ``auto`` starts from the teacher's features where the student has the same ones, from a selection of their
            channels where it has the same layers and is narrower (:func:`select_weights`), else from random weights; a
            safetensors file with another classifier, from its features; or as
            :func:`udacisense.models.weights.initialise` takes it.
        teacher: the model that the pipeline gives.
        context: the data's classes and size, the seed.
    """
    student = options["student"]
    if isinstance(student, nn.Module):
        return None, copy.deepcopy(student), "as given"
    spec = student_spec(options, num_classes=len(context.class_names), size_px=context.input_shape[-1])
    if _is_file(init):
        return spec, student_from_file(spec, Path(init), seed=context.seed), f"the weights of {Path(init).name}"
    if init != "auto":
        return spec, fresh_model(spec, init=init, seed=context.seed), init
    built = fresh_model(spec, init="none", seed=context.seed)
    start = "" if is_library(spec.architecture) else "features."  # presets differ in their classifiers
    features = {k: v for k, v in teacher.state_dict().items() if k.startswith(start)}
    wanted = {k: v.shape for k, v in built.state_dict().items() if k.startswith(start)}
    selected = select_weights(features, wanted) if wanted else None
    if selected is None:
        return spec, built, "none"
    put_state(built, selected)
    is_whole = {k: v.shape for k, v in features.items()} == wanted
    return spec, built, "the teacher's features" if is_whole else "a selection of the teacher's channels"


def select_weights(larger: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> dict[str, Tensor] | None:
    """Initialise a narrower network by evenly spaced channels of a larger one of the same layers.

    Source: Xu et al. 2023, "Initializing Models with Larger Ones" (weight selection, uniform). Which channels are taken
    depends on the two widths alone, so that layers that share channels keep the same ones.

    Args:
        larger: name → tensor.
        shapes: name → shape of the narrower network.

    Returns:
        Tensors of those shapes; None where the layers differ or one is wider.
    """
    if larger.keys() != shapes.keys():
        return None
    selected = {}
    for name, shape in shapes.items():
        tensor = larger[name]
        if tensor.ndim != len(shape) or any(new > old for new, old in zip(shape, tensor.shape, strict=True)):
            return None
        for axis, (new, old) in enumerate(zip(shape, tensor.shape, strict=True)):
            tensor = tensor.index_select(axis, torch.linspace(0, old - 1, new).round().long().to(tensor.device))
        selected[name] = tensor.clone()
    return selected


def student_from_file(spec: ModelSpec, path: Path, *, seed: int) -> nn.Module:
    """Build a student with a safetensors file's weights: all of them where they fit, else the features alone.

    Raises:
        InputError: the file is missing.
        LoadError: it is no safetensors file, or its keys or shapes differ.
    """
    built = fresh_model(spec, init="none", seed=seed)
    state = read_state(path, pickled=True)
    fits_whole = {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in built.state_dict().items()}
    if fits_whole:
        put_state(built, state)
    else:
        load_features(built, {k: v for k, v in state.items() if k.startswith("features.")}, source=str(path))
    return built


def refuse_larger(student: nn.Module, teacher: Teacher) -> None:
    """Refuse a student that has more parameters than the module that teaches it.

    Raises:
        InputError: with both counts.
    """
    if not isinstance(teacher, nn.Module):
        return
    small, large = count_parameters(student), count_parameters(teacher)
    if 0 < large < small:  # frozen TorchScript shows no parameters
        raise InputError(
            f"The student has {small:,} parameters and its teacher {large:,}; distillation compresses, so choose a "
            "student that is no larger than its teacher."
        )
