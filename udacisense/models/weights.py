"""Initial weights of a network, and weights read from a file."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from udacisense.base.files import PICKLE, what_it_is
from udacisense.base.records import ModelSpec
from udacisense.base.tensors import TENSOR_ERRORS
from udacisense.errors import InputError, LoadError, first_line
from udacisense.models.libraries import is_library, trained_state
from udacisense.models.pickled import read_pickled

TRAINED = ("pretrained", "imagenet")  # what --init calls a library's own weights
log = logging.getLogger("udacisense")
# torch.optim.swa_utils counts its steps beside the weights that it averages, and thop the operations of each module.
_COUNTS = ("n_averaged", "total_ops", "total_params")
_WRAPPERS = re.compile(r"(?:^|(?<=\.))_orig_mod\.")  # that torch.compile puts into the names


def initialise(model: nn.Module, init: str, spec: ModelSpec) -> None:
    """Give a freshly built model its initial weights, in place.

    Args:
        model: as :func:`build_model` returned it.
        init: ``none`` (leave it as built), ``pretrained`` or ``imagenet`` (those of the network's library, downloaded
            once; the classifier stays fresh, but for that library's own classes; of the presets, MobileNetV3-Small at
            ``width_mult`` 1.0 has them), or the path of a file (safetensors, or a state dictionary of PyTorch's,
            ``.pth``) that holds every key of the model, or exactly its ``features.*`` keys (the rest stays fresh); a
            classifier of other classes stays fresh too, which is said.
        spec: that built it.

    Raises:
        InputError: the file is missing or holds NaN, the download failed, or no such weights exist for this model.
        LoadError: the file is no safetensors file, or its keys or shapes differ (the first are named).
    """
    if init == "none":
        return
    if init in TRAINED and is_library(spec.architecture):
        trained, own = trained_state(spec), model.state_dict()
        put_state(model, {k: v for k, v in trained.items() if k in own and v.shape == own[k].shape})
        return
    if init in TRAINED:
        load_features(model, _imagenet_features(model), source="torchvision's IMAGENET1K_V1")
        return
    path = Path(init)
    if not path.exists():
        raise InputError(f"{init!r} is no file; initial weights are pretrained, none, or a path to a file of weights.")
    state = read_state(path, pickled=True)
    if spoilt := next((key for key, value in state.items() if not value.isfinite().all()), None):
        raise InputError(
            f"The weights in {path} hold NaN or infinity, in {spoilt}, as after a training that diverged; give others."
        )
    if all(key.startswith("features.") for key in state):
        load_features(model, state, source=str(path))
    else:
        _load_whole(model, state, source=str(path), other_classes=True)


def load_state(model: nn.Module, path: Path, *, pickled: bool = False) -> None:
    """Load a file that holds exactly the model's keys, in place; a prefix of all is taken off and said.

    Args:
        model: of those keys.
        path: a safetensors file.
        pickled: it may be a state dictionary in PyTorch's own form too, ``.pth``.

    Raises:
        InputError: the file is missing.
        LoadError: the file is no safetensors file, or its keys or shapes differ (the first are named).
    """
    _load_whole(model, read_state(path, pickled=pickled), source=str(path))


def read_state(path: Path, *, pickled: bool = False) -> dict[str, Tensor]:
    """Read a safetensors file, or (``pickled``) a state dictionary in PyTorch's own form, tensors alone.

    Raises:
        InputError: the file is missing.
        LoadError: it is no such file.
    """
    if not path.is_file():
        raise InputError(f"{path} is no file; give the path of a file with weights, .safetensors or .pth.")
    try:
        return load_file(path)
    except TENSOR_ERRORS as exc:
        if pickled and what_it_is(path) == PICKLE:
            state, wrapper = read_pickled(path)
            if wrapper:
                log.warning("%s: the weights are what it holds under %r.", path, wrapper)
            return state
        # Of a file that begins as one, the library names the part of its own reading that failed.
        is_cut = isinstance(exc, SafetensorError) and what_it_is(path) is None
        why = "it is cut short or damaged: copy it again" if is_cut else what_it_is(path) or first_line(exc)
        kind = "a readable file of weights" if path.suffix == ".pth" else "a readable safetensors file"
        raise LoadError(f"{path} is not {kind} ({why}).") from exc


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's state as safetensors takes it: on the CPU, contiguous, nothing shared.

    Raises:
        InputError: the model has weights that nothing can be loaded into: quantised, lazy or expanded ones.
    """
    state: dict[str, Tensor] = {}
    for key, value in model.state_dict().items():
        if nn.parameter.is_lazy(value):
            raise InputError(
                f"{key} has no shape yet: a lazy layer makes its weights at the first call. Let the factory call the "
                "model once, on one image, before it returns it."
            )
        if not isinstance(value, Tensor) or value.is_quantized:
            raise InputError(
                f"{key} of the model is quantised already; give the float32 model: each format quantises by itself."
            )
        if any(step == 0 and count > 1 for step, count in zip(value.stride(), value.shape, strict=True)):
            raise InputError(
                f"{key} of the model is expanded: one number in memory stands for several, so that no weights can be "
                "loaded into it. Let the model keep a copy, as by .expand(...).clone()."
            )
        state[key] = value.detach().cpu().contiguous().clone()
    return state


def put_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load tensors of a model's keys and shapes into it, in place; keys that are not given stay as they are.

    A copied state has lost the versions of its modules, and torchvision's MNASNet takes a state without one for that of
    its first release. What has the model's own keys and shapes has its versions too.
    """
    own = model.state_dict()
    own.update(state)
    model.load_state_dict(own)


def _load_whole(model: nn.Module, state: Mapping[str, Tensor], *, source: str, other_classes: bool = False) -> None:
    wanted = model.state_dict()
    named, prefix = _without_prefix(state, wanted, source)
    # Weights from elsewhere lack BatchNorm's count of batches, which no answer needs.
    named = {**{key: value for key, value in wanted.items() if key.endswith(".num_batches_tracked")}, **named}
    fresh = _classifier_of_others(named, wanted) if other_classes else None
    if fresh is not None:
        log.warning("%s: its %s answers other classes, and is trained anew.", source, fresh)
        named = {key: value for key, value in named.items() if key.rpartition(".")[0] != fresh}
    refuse_difference(
        named,
        {key: value for key, value in wanted.items() if key.rpartition(".")[0] != fresh},
        source=f"{source}, taken without {prefix!r}," if prefix else source,
    )
    if prefix:
        log.warning("%s: the names of the weights begin with %r, which is taken off.", source, prefix)
    put_state(model, named)


def _classifier_of_others(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str | None:
    """Return the one module whose weights differ in their number of outputs alone; None where more differs."""
    if given.keys() != wanted.keys():
        return None
    other = [key for key, value in wanted.items() if given[key].shape != value.shape]
    modules = {key.rpartition(".")[0] for key in other}
    is_outputs = all(given[key].shape[1:] == wanted[key].shape[1:] for key in other)
    return modules.pop() if len(modules) == 1 and is_outputs else None


def _without_prefix(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], source: str
) -> tuple[Mapping[str, Tensor], str]:
    """Return the state under the model's own names, and what its names began with; averaged weights come first.

    What is beside them under other prefixes, such as a loss's own weights, is left out.
    """
    plain = {
        _WRAPPERS.sub("", key): value
        for key, value in state.items()
        if key in wanted or key.rpartition(".")[2] not in _COUNTS
    }
    if plain.keys() == wanted.keys():
        return plain, "_orig_mod." if any("_orig_mod." in key for key in state) else ""
    starts = dict.fromkeys(key[: dot.end()] for key in plain for dot in re.finditer(r"\.", key))
    fitting: dict[str, dict[str, Tensor]] = {}
    for start in starts:
        named = {key.removeprefix(start): value for key, value in plain.items() if key.startswith(start)}
        if named.keys() == wanted.keys():
            fitting[start] = named
    chosen = [start for start in fitting if "ema" in start] or list(fitting)
    if len(chosen) > 1:
        raise LoadError(
            f"{source} holds the weights of {len(chosen)} such models, under {' and '.join(map(repr, chosen))}; save "
            "alone the one that is meant."
        )
    if chosen:
        return fitting[chosen[0]], chosen[0]
    # Where most of the names fit behind a prefix, what is missing or unknown is told without it.
    found = {
        start: sum(key.removeprefix(start) in wanted for key in plain if key.startswith(start)) for start in starts
    }
    likely = max(found, key=lambda start: found[start], default="")
    if likely and 2 * found[likely] > len(wanted):
        return {key.removeprefix(likely): value for key, value in plain.items() if key.startswith(likely)}, likely
    return state, ""


def load_features(model: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Load weights that are exactly a model's ``features.*``, in place; the rest of it stays as it is.

    Raises:
        LoadError: keys or shapes differ (the first are named); ``source`` says where the weights are from.
    """
    own = {key: value for key, value in model.state_dict().items() if key.startswith("features.")}
    refuse_difference(state, own, source=source)
    put_state(model, state)


def refuse_difference(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, source: str) -> None:
    """Raise LoadError that names the first keys that are missing, unknown, of another shape or whole numbers."""
    missing = [f"{key} is missing" for key in wanted if key not in given]
    unknown = [f"{key} is unknown" for key in sorted(given) if key not in wanted]
    other = [
        f"{key} is {_kind(given[key])} and should be {_kind(value)}"
        for key, value in wanted.items()
        if key in given and _kind(given[key]) != _kind(value)
    ]
    # One of each first: what the model calls otherwise is both missing and unknown.
    problems = [problem for row in zip_longest(missing, unknown, other) for problem in row if problem]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise LoadError(f"The weights in {source} belong to another model: {'; '.join(problems[:3])}{more}.")


def _kind(tensor: Tensor) -> str:
    """Return a shape, and that it holds whole or complex numbers: the precision of others does not matter."""
    kind = "" if tensor.is_floating_point() else " of complex numbers" if tensor.is_complex() else " of whole numbers"
    return f"{tuple(tensor.shape)}{kind}"


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
