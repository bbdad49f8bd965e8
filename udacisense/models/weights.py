"""Initial weights of a network, and weights read from a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from udacisense.base.tensors import TENSOR_ERRORS
from udacisense.errors import InputError, LoadError, first_line


def initialise(model: nn.Module, init: str) -> None:
    """Give a freshly built model its initial weights, in place.

    Args:
        model: as :func:`build_model` returned it.
        init: ``none`` (leave it as built), ``imagenet`` (torchvision's IMAGENET1K_V1 features, downloaded once;
            the classifier stays fresh; MobileNetV3-Small at ``width_mult`` 1.0 only), or the path of a safetensors
            file that holds every key of the model, or exactly its ``features.*`` keys (the rest stays fresh).

    Raises:
        InputError: the file is missing, the download failed, or no such weights exist for this model.
        LoadError: the file is no safetensors file, or its keys or shapes differ (the first are named).
    """
    if init == "none":
        return
    if init == "imagenet":
        load_features(model, _imagenet_features(model), source="torchvision's IMAGENET1K_V1")
        return
    path = Path(init)
    if not path.exists():
        raise InputError(f"{init!r} is no file; initial weights are imagenet, none, or a path to a safetensors file.")
    state = read_state(path)
    if all(key.startswith("features.") for key in state):
        load_features(model, state, source=str(path))
    else:
        _load_whole(model, state, source=str(path))


def load_state(model: nn.Module, path: Path) -> None:
    """Load a safetensors file that holds exactly the model's keys, in place.

    Raises:
        InputError: the file is missing.
        LoadError: the file is no safetensors file, or its keys or shapes differ (the first are named).
    """
    _load_whole(model, read_state(path), source=str(path))


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        InputError: the file is missing.
        LoadError: it is no safetensors file.
    """
    if not path.is_file():
        raise InputError(f"{path} is no file; give the path of a safetensors file with weights.")
    try:
        return load_file(path)
    except TENSOR_ERRORS as exc:
        raise LoadError(f"{path} is not a readable safetensors file ({first_line(exc)}).") from exc


def _load_whole(model: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    refuse_difference(state, model.state_dict(), source=source)
    model.load_state_dict(dict(state))


def load_features(model: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Load weights that are exactly a model's ``features.*``, in place; the rest of it stays as it is.

    Raises:
        LoadError: keys or shapes differ (the first are named); ``source`` says where the weights are from.
    """
    own = {key: value for key, value in model.state_dict().items() if key.startswith("features.")}
    refuse_difference(state, own, source=source)
    model.load_state_dict(dict(state), strict=False)


def refuse_difference(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, source: str) -> None:
    """Raise LoadError that names the first keys that are missing, unknown or of another shape."""
    problems = [f"{key} is missing" for key in wanted if key not in given]
    problems += [f"{key} is unknown" for key in sorted(given) if key not in wanted]
    problems += [
        f"{key} is {tuple(given[key].shape)} and should be {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in given and given[key].shape != value.shape
    ]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise LoadError(f"The weights in {source} belong to another model: {'; '.join(problems[:3])}{more}.")


def _imagenet_features(model: nn.Module) -> dict[str, Tensor]:
    from torchvision.models import MobileNet_V3_Small_Weights, mobilenet_v3_small

    with torch.device("meta"):
        reference = mobilenet_v3_small(weights=None).state_dict()
    wanted = {key: value.shape for key, value in reference.items() if key.startswith("features.")}
    own = {key: value.shape for key, value in model.state_dict().items() if key.startswith("features.")}
    if own != wanted:
        raise InputError(
            "ImageNet weights exist for mobilenet_v3_small at width_mult 1.0 only (presets baseline and p1-student);"
            " use --init none or --init PATH for this model."
        )
    try:
        # weights_only: tensors and nothing else are read; the file's name carries its checksum, which is checked.
        state = MobileNet_V3_Small_Weights.IMAGENET1K_V1.get_state_dict(
            progress=False, check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as exc:
        raise InputError(
            f"The ImageNet weights could not be downloaded ({first_line(exc)}); use --init PATH with a safetensors"
            " file, or --init none."
        ) from exc
    return {key: value for key, value in state.items() if key.startswith("features.")}
