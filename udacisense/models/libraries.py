"""Networks of torchvision and timm by name: how they are built, what they are fed, and their trained weights.

``torchvision/NAME`` and ``timm/NAME`` run the installed library's code, and no user's. The classifier is made for the
data's classes by the library itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from udacisense.base.records import ModelSpec, Scalar
from udacisense.data.images import MEAN, STD
from udacisense.errors import InputError, cause, did_you_mean

LIBRARIES = ("torchvision", "timm")
USUAL_PX = 224  # of a network that does not say its own
_LEAST_MOMENTUM = 0.1
# What would read other files, or make something else than a classifier of images in three colours.
_RESERVED = frozenset(
    {"pretrained", "weights", "checkpoint_path", "cache_dir", "pretrained_cfg", "pretrained_cfg_overlay"}
    | {"features_only", "in_chans", "progress", "scriptable", "exportable", "no_jit"}
)
_SAFE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # PyTorch's own switch: whoever calls torch.load, nothing but tensors is read


@dataclass(frozen=True, kw_only=True)
class NetworkFacts:
    """What a network was made for, as its library records it."""

    resolution_px: int  # edge that it computes at
    mean: tuple[float, float, float]  # of RGB scaled to 0..1
    std: tuple[float, float, float]
    interpolation: str  # that its photos were resized by: bilinear, bicubic, ...
    weights: str | None  # address of the trained weights; None: there are none
    licence: str | None  # of those

    def card(self) -> dict[str, Scalar]:
        """Return where trained weights are from and under which licence, for an artifact's record."""
        return {"weights_source": self.weights, "weights_licence": self.licence} if self.weights else {}


def is_library(architecture: str) -> bool:
    """Tell whether an architecture is ``torchvision/NAME`` or ``timm/NAME``."""
    return architecture.partition("/")[0] in LIBRARIES and "/" in architecture


def network_facts(spec: ModelSpec) -> NetworkFacts:
    """Return what a network is fed by itself: its own resolution, mean, std and interpolation.

    A network that no library has (a preset, ``package.module:factory``) has ImageNet's mean and std, and the resolution
    of its options, else 224 px.

    Raises:
        InputError: the library or its network is not there.
    """
    if is_library(spec.architecture):
        return _library_facts(spec.architecture)
    given = spec.options.get("resolution_px")
    return NetworkFacts(
        resolution_px=given if isinstance(given, int) else USUAL_PX,
        mean=MEAN,
        std=STD,
        interpolation="bilinear",
        weights=None,
        licence=None,
    )


def library_spec(
    architecture: str, *, num_classes: int, resolution_px: int | None, size_px: int, options: Mapping[str, Scalar]
) -> ModelSpec:
    """Return the spec of a library's network, fitted to a data set.

    Args:
        architecture: ``torchvision/NAME`` or ``timm/NAME``.
        num_classes: C of the logits.
        resolution_px: edge that the network itself computes at; None: its own.
        size_px: edge of the images fed in; where it is another, the network resizes them first.
        options: of the library's function.

    Raises:
        InputError: the library or its network is not there, or an option is not allowed.
    """
    own = _library_facts(architecture).resolution_px
    fitted = {"num_classes": num_classes, "resolution_px": resolution_px or own, "size_px": size_px}
    taken = [key for key in options if key in _RESERVED or key in fitted]
    if taken:
        raise InputError(
            f"{architecture} takes no --option {taken[0]}: classes and sizes follow from the data, "
            "and weights are given by --init."
        )
    return ModelSpec(architecture=architecture, options={**fitted, **options})


def at_lower_resolution(spec: ModelSpec, resolution_px: int | None = None) -> ModelSpec:
    """Return a library's network that computes at fewer pixels: by default at 4/7 of its edge, a third of the work.

    224 px become 128 px; any edge is a multiple of 32, by which these networks halve their maps.
    """
    own = spec.options.get("resolution_px")
    lower = max(32, round((own if isinstance(own, int) else USUAL_PX) * 4 / 7 / 32) * 32)
    return ModelSpec(architecture=spec.architecture, options={**spec.options, "resolution_px": resolution_px or lower})


def build_library_model(spec: ModelSpec) -> nn.Module:
    """Build a library's network with fresh weights; it computes at ``resolution_px``, whatever it is fed.

    Running statistics of BatchNorm move by a tenth a step at least: a library's hundredth suits ImageNet's hundreds of
    thousands of steps, and a small data set has a few hundred.

    Raises:
        InputError: the library or its network is not there, or it refuses an option.
    """
    model = _made(spec, trained=False)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.momentum is not None:
            module.momentum = max(module.momentum, _LEAST_MOMENTUM)
    return model


def trained_state(spec: ModelSpec) -> dict[str, Tensor]:
    """Return a network's trained weights, downloaded and kept by its library; the classifier's are of other classes.

    Raises:
        InputError: it has no trained weights, or they could not be downloaded.
    """
    refuse_untrained(spec)
    return _made(spec, trained=True).state_dict()


def refuse_untrained(spec: ModelSpec) -> None:
    """Refuse a network of a library that has no trained weights.

    Raises:
        InputError: with its name.
    """
    if network_facts(spec).weights is None:
        raise InputError(f"There are no trained weights of {spec.architecture}; use --init FILE, or --init none.")


def _made(spec: ModelSpec, *, trained: bool) -> nn.Module:
    library, _, name = spec.architecture.partition("/")
    _library_facts(spec.architecture)  # refuses what is not there
    options = {key: value for key, value in spec.options.items() if key not in ("size_px", "resolution_px")}
    if _RESERVED & options.keys():
        raise InputError(f"{spec.architecture} takes no option {min(_RESERVED & options.keys())}.")
    build = _torchvision_model if library == "torchvision" else _timm_model
    try:
        with _tensors_alone():
            made: nn.Module = build(name, _int(spec.options.get("resolution_px")), trained, options)
    # The libraries raise whatever they and their downloads run into.
    except Exception as exc:
        if trained:
            raise InputError(
                f"The trained weights of {spec.architecture} could not be downloaded ({cause(exc)}); connect to the "
                "internet, or use --init FILE, or --init none."
            ) from exc
        raise InputError(
            f"The architecture {spec.architecture!r} could not be built with {spec.options}: {cause(exc).rstrip('.')}."
        ) from exc
    return made


def _torchvision_model(name: str, resolution_px: int | None, trained: bool, options: dict[str, Any]) -> nn.Module:
    from torchvision import models

    if name in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "init_weights": True, **options}
    if name.startswith("vit_") and resolution_px is not None and not trained:
        options["image_size"] = resolution_px
    if trained:
        options.pop("num_classes", None)  # the weights are of their own classes
        options.pop("init_weights", None)
        return models.get_model(name, weights="DEFAULT", progress=False, **options)  # type: ignore[no-any-return]
    return models.get_model(name, weights=None, **options)  # type: ignore[no-any-return]


def _timm_model(name: str, resolution_px: int | None, trained: bool, options: dict[str, Any]) -> nn.Module:
    import timm

    found = timm.get_pretrained_cfg(name)
    if found is not None and found.fixed_input_size and resolution_px is not None:
        options = {"img_size": resolution_px, **options}
    return timm.create_model(name, pretrained=trained, **options)


def _library_facts(architecture: str) -> NetworkFacts:
    library, _, name = architecture.partition("/")
    if library == "torchvision":
        return _torchvision_facts(name)
    try:
        import timm
    except ImportError as exc:
        raise InputError(f"{architecture} needs timm; install it: pip install 'udacisense[timm]'.") from exc
    if not timm.is_model(name):
        raise InputError(f"timm has no network {name!r}.{did_you_mean(name, timm.list_models())}")
    found = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if found is None:
        return network_facts(ModelSpec(architecture="", options={}))
    hub = f"https://huggingface.co/{found.hf_hub_id}" if found.hf_hub_id else None
    return NetworkFacts(
        resolution_px=found.input_size[-1],
        mean=_rgb(found.mean),
        std=_rgb(found.std),
        interpolation=found.interpolation,
        weights=hub or (str(found.url) if found.url else None),
        licence=found.license,
    )


def _rgb(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _torchvision_facts(name: str) -> NetworkFacts:
    from torchvision import models

    names = models.list_models(module=models)
    if name not in names:
        raise InputError(f"torchvision has no classifier {name!r}.{did_you_mean(name, names)}")
    weights = models.get_model_weights(name).DEFAULT
    seen = weights.transforms()
    return NetworkFacts(
        resolution_px=seen.crop_size[0],
        mean=_rgb(seen.mean),
        std=_rgb(seen.std),
        interpolation=seen.interpolation.value,
        weights=weights.url,
        licence=weights.meta.get("license", "BSD-3-Clause, by torchvision; the images' terms apply besides"),
    )


def _int(value: Scalar) -> int | None:
    return value if isinstance(value, int) else None


@contextlib.contextmanager
def _tensors_alone() -> Iterator[None]:
    """Let nobody unpickle more than tensors; a hub's retries are no news, and its refusal is told in the end."""
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    before = os.environ.get(_SAFE)
    os.environ[_SAFE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SAFE]
        else:
            os.environ[_SAFE] = before
