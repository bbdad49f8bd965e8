"""Initial weights, refused before a run where they do not fit. Nothing is downloaded and nothing is kept."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from udacisense.base.records import ModelSpec
from udacisense.models.build import preset
from udacisense.models.libraries import is_library, refuse_untrained
from udacisense.models.weights import TRAINED, initialise
from udacisense.stages.distill import student_from_file
from udacisense.training import fresh_model


def check_init(spec: ModelSpec, init: str) -> None:
    """Refuse initial weights that :func:`udacisense.models.weights.initialise` would refuse; a download is not tried.

    Raises:
        InputError, LoadError: as there.
    """
    model = fresh_model(spec, init="none", seed=0)
    if init in TRAINED and is_library(spec.architecture):
        refuse_untrained(spec)
        return
    if init in TRAINED and _features(model) == _features(fresh_model(preset("baseline"), init="none", seed=0)):
        return  # what is left is the download
    initialise(model, init, spec)


def check_student_init(spec: ModelSpec, init: str) -> None:
    """Refuse initial weights that a distilled student cannot start from.

    Args:
        spec: of the student.
        init: as ``student_init`` of :func:`udacisense.stages.distill.apply_knowledge_distillation`.

    Raises:
        InputError: the file is missing, or no such weights exist for this model.
        LoadError: the file is no safetensors file, or its keys or shapes differ.
    """
    if init == "auto":
        return
    if init in ("none", *TRAINED):
        check_init(spec, init)
        return
    student_from_file(spec, Path(init), seed=0)


def _features(model: nn.Module) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in model.state_dict().items() if key.startswith("features.")}
