"""The networks, how to build one from a :class:`~udacisense.base.records.ModelSpec`, and its initial weights.

Every network takes normalised float32 images (N, 3, H, W), resizes them inside itself and answers logits
(N, C). To add one, write a factory whose options are plain scalars and add a row to :data:`MODELS`.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx, nn

from udacisense.base.child import where_the_user_stands
from udacisense.base.records import ModelSpec, Scalar
from udacisense.errors import InputError, did_you_mean, foreign_cause
from udacisense.models.blocks import build_blocks, parse_blocks
from udacisense.models.layers import MOST_PX, ConvClassifier, Resize, conv_bn_relu, init_convolutions, init_linear
from udacisense.models.libraries import LIBRARIES, build_library_model, is_library, library_spec
from udacisense.models.widths import SHAPES, give_shapes


def build_mobilenet_v3_small(
    *,
    num_classes: int = 10,
    resolution_px: int = 224,
    size_px: int = 32,
    width_mult: float = 1.0,
    linear_size: int = 1024,
    dropout: float = 0.2,
) -> nn.Module:
    """MobileNetV3-Small (Howard et al. 2019, "Searching for MobileNetV3", table 2), torchvision's features.

    The classifier is Linear(F, linear_size) → Hardswish → Dropout → Linear(linear_size, num_classes);
    ``width_mult`` scales the channels of the features.
    """
    # Imported here, because it takes a second, which a process that times `tiny` can do without.
    from torchvision.models import mobilenet_v3_small

    # torchvision's momentum of 0.01 suits ImageNet's hundreds of thousands of steps; after the few hundred of a small
    # data set the running statistics would still be those of the initialisation.
    norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.1)
    features = mobilenet_v3_small(weights=None, width_mult=width_mult, norm_layer=norm).features
    out_channels: int = features[-1].out_channels
    classifier = nn.Sequential(
        nn.Linear(out_channels, linear_size),
        nn.Hardswish(inplace=True),
        nn.Dropout(p=dropout, inplace=True),
        nn.Linear(linear_size, num_classes),
    )
    init_linear(classifier)
    return ConvClassifier(features, classifier, resolution_px=resolution_px, size_px=size_px)


_TINY_STEM = 32
# (output channels, stride) of the six depthwise-separable blocks behind the stem. Maps of 32 x 32, the grain of the
# household photos, are costly and see little: one block stays there, three work at 16 x 16.
_TINY_BLOCKS = ((32, 1), (48, 2), (64, 1), (96, 1), (96, 2), (128, 1))
_TINY_FIRST_MAP = 4  # the first block's map is so many times smaller than the resolution


def build_depthwise_separable(
    *, num_classes: int = 10, resolution_px: int = 128, size_px: int = 32, dropout: float = 0.1
) -> nn.Module:
    """A small network of depthwise-separable blocks (Howard et al. 2017, "MobileNets", section 3.1).

    Stem 3→32, six blocks (depthwise 3×3 → pointwise 1×1) growing to 128 channels, global average pool, Dropout,
    Linear. Each convolution is followed by BatchNorm and ReLU, and so has no bias: the three fuse into one int8
    operation, which Hardswish would not.

    The first block's map is a quarter of ``resolution_px``. An image no larger than that is not enlarged first:
    bilinear enlargement by 4 and a convolution of stride 4 are together one 3×3 convolution of the image as it is (its
    polyphase form: Vaidyanathan 1990, "Multirate digital filters"), and its weights are what is trained. A larger
    image is resized to ``resolution_px`` and halved by the stem and by the first block.
    """
    map_px = resolution_px // _TINY_FIRST_MAP
    first_stride = 1 if size_px <= map_px else 2
    layers: list[nn.Module] = [conv_bn_relu(3, _TINY_STEM, kernel=3, stride=first_stride)]
    channels = _TINY_STEM
    for index, (out_channels, stride) in enumerate(_TINY_BLOCKS):
        depthwise_stride = first_stride if index == 0 else stride
        depthwise = conv_bn_relu(channels, channels, kernel=3, stride=depthwise_stride, groups=channels)
        layers.append(nn.Sequential(depthwise, conv_bn_relu(channels, out_channels, kernel=1)))
        channels = out_channels
    features = nn.Sequential(*layers)
    init_convolutions(features)
    classifier = nn.Sequential(nn.Dropout(p=dropout), nn.Linear(channels, num_classes))
    init_linear(classifier)
    seen_px = map_px if first_stride == 1 else resolution_px
    return ConvClassifier(features, classifier, resolution_px=seen_px, size_px=size_px)


MODELS: dict[str, Callable[..., nn.Module]] = {
    "mobilenet_v3_small": build_mobilenet_v3_small,
    "depthwise_separable": build_depthwise_separable,
    "blocks": build_blocks,
}


def _mobilenet(*, width_mult: float, linear_size: int) -> ModelSpec:
    options: dict[str, Scalar] = {
        "num_classes": 10,
        "resolution_px": 224,
        "size_px": 32,
        "width_mult": width_mult,
        "linear_size": linear_size,
        "dropout": 0.2,
    }
    return ModelSpec(architecture="mobilenet_v3_small", options=options)


PRESETS: dict[str, ModelSpec] = {
    "baseline": _mobilenet(width_mult=1.0, linear_size=1024),
    "p1-student": _mobilenet(width_mult=1.0, linear_size=256),
    "p1-slim": _mobilenet(width_mult=0.6, linear_size=256),
    "tiny": ModelSpec(
        architecture="depthwise_separable",
        options={"num_classes": 10, "resolution_px": 128, "size_px": 32, "dropout": 0.1},
    ),
    "p2-student": ModelSpec(
        architecture="blocks",
        options={
            "num_classes": 10,
            "resolution_px": 32,
            "size_px": 32,
            "blocks": "c16 i20x4s2 i20x4k5*2 i28x4s2k5 i28x4k5*2",
            "dropout": 0.0,
        },
    ),
}


def preset(
    name: str,
    *,
    num_classes: int = 10,
    resolution_px: int | None = None,
    size_px: int = 32,
    width_mult: float | None = None,
    options: Mapping[str, Scalar] = MappingProxyType({}),
) -> ModelSpec:
    """Return the spec of a named model, fitted to a data set.

    Args:
        name: row of :data:`PRESETS`, a line of blocks (:func:`udacisense.models.blocks.parse_blocks`),
            ``torchvision/NAME``, ``timm/NAME``, or ``package.module:factory``, which is called with ``options`` alone.
        num_classes: C of the logits.
        resolution_px: edge that the network itself computes at; None keeps its own.
        size_px: edge of the images fed in.
        width_mult: of the features' channels, 0.1 to 2; None keeps the preset's.
        options: of the function that builds it, instead of its own.

    Raises:
        InputError: the name is unknown, a number is out of range, or the network has no such option.
    """
    if num_classes < 2:
        raise InputError(f"A classifier needs at least 2 classes, got {num_classes}.")
    given = dict(options) if width_mult is None else {**options, "width_mult": width_mult}
    if ":" in name:
        return ModelSpec(architecture=name, options=given)
    if is_library(name):
        spec = library_spec(name, num_classes=num_classes, resolution_px=resolution_px, size_px=size_px, options=given)
        return _in_range(spec)
    if name not in PRESETS and " " not in name.strip():
        hint = did_you_mean(name, PRESETS)
        raise InputError(
            f"There is no model preset {name!r}; choose one of {', '.join(PRESETS)}, "
            f"{', '.join(f'{library}/NAME' for library in LIBRARIES)}, package.module:factory, or a line of blocks, as "
            f"{PRESETS['p2-student'].options['blocks']!r}.{hint}"
        )
    spec = PRESETS[name] if name in PRESETS else _of_blocks(name)
    usual = {**spec.options, "num_classes": num_classes, "size_px": size_px}
    if resolution_px is not None:
        usual["resolution_px"] = resolution_px
    for key in given:
        if key not in usual:
            what = "width multiplier; MobileNetV3-Small's have one" if key == "width_mult" else f"option {key!r}"
            raise InputError(f"The preset {name!r} has no {what}.")
        _refuse_value(name, key, given[key], usual[key])
    return _in_range(ModelSpec(architecture=spec.architecture, options={**usual, **given}))


def _refuse_value(name: str, key: str, value: Scalar, usual: Scalar) -> None:
    """Refuse an option of a preset that is of another kind than its own, or that follows from the data."""
    if key in ("num_classes", "size_px"):
        raise InputError(f"The preset {name!r} takes no option {key!r}: classes and image size follow from the data.")
    is_right = isinstance(value, int | float if isinstance(usual, float) else type(usual))
    if isinstance(value, bool) or not is_right or (isinstance(usual, int) and isinstance(value, int) and value < 1):
        kind = {int: "a whole number from 1 on", float: "a number"}.get(type(usual), "text")
        raise InputError(f"The option {key!r} of the preset {name!r} is {value!r}; allowed is {kind}, as {usual!r}.")


def _in_range(spec: ModelSpec) -> ModelSpec:
    width_mult = spec.options.get("width_mult")
    if width_mult is not None and not (isinstance(width_mult, int | float) and 0.1 <= width_mult <= 2):
        raise InputError(f"The width multiplier is {width_mult}; allowed is 0.1 to 2.")
    # Every network here halves its input five times at most.
    for option in ("resolution_px", "size_px"):
        value = spec.options[option]
        if not isinstance(value, int) or not 8 <= value <= MOST_PX:
            raise InputError(f"{option} is {value}; allowed is 8 to {MOST_PX}.")
    return spec


def _of_blocks(line: str) -> ModelSpec:
    try:
        parse_blocks(line)
    except ValueError as exc:
        raise InputError(f"The network {line!r} is no preset and no line of blocks: {exc}.") from exc
    like = PRESETS["p2-student"]
    return ModelSpec(architecture=like.architecture, options={**like.options, "blocks": line})


def build_model(spec: ModelSpec) -> nn.Module:
    """Build the eager float32 network of a spec, freshly initialised from torch's global generator.

    ``torchvision/NAME`` and ``timm/NAME`` are built by their library. An architecture with a colon,
    ``package.module:factory``, is imported and ``factory(**options)`` is called: that runs the code of that module.
    The option ``tensor_shapes`` makes layers of any of them narrower (:mod:`udacisense.models.widths`).

    Raises:
        InputError: the architecture is unknown, cannot be imported, or refuses its options.
    """
    name, shapes = spec.architecture, spec.options.get(SHAPES)
    if shapes is not None:
        whole = build_model(replace(spec, options={key: spec.options[key] for key in spec.options if key != SHAPES}))
        give_shapes(whole, str(shapes))
        return whole
    if ":" in name:
        with _foreign_code():
            return _answering_one_tensor(_call(_import_factory(name), spec), name)
    if name in MODELS:
        return _call(MODELS[name], spec)
    if is_library(name):
        size_px, seen_px = (spec.options.get(key) for key in ("size_px", "resolution_px"))
        resize = Resize(seen_px).forward if isinstance(seen_px, int) and seen_px != size_px else None
        return _answering_one_tensor(build_library_model(spec), name, resize)
    raise InputError(
        f"There is no architecture {name!r}; choose one of {', '.join(MODELS)}, or write torchvision/NAME, "
        "timm/NAME or package.module:factory."
    )


def _answering_one_tensor(model: nn.Module, name: str, resize: Callable[[Tensor], Tensor] | None = None) -> nn.Module:
    """Let a model take images alone and answer its logits alone, in place; its weights keep their names.

    With ``resize`` the images are resized first.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"{name} returned {type(model).__name__}; a factory must return a torch.nn.Module.")
    kind = type(model)
    if isinstance(model, torch.jit.ScriptModule | fx.GraphModule):
        return model

    class Classifier(kind):  # type: ignore[valid-type, misc]
        def forward(self, images: Tensor) -> Any:
            return logits_of(super().forward(images if resize is None else resize(images)))

        def train(self, mode: bool = True) -> nn.Module:
            super().train(mode)
            return self

        def eval(self) -> nn.Module:
            super().eval()  # a user's own may return nothing
            return self

    Classifier.__name__, Classifier.__qualname__, Classifier.__module__ = kind.__name__, kind.__qualname__, __name__
    model.__class__ = Classifier
    return model


def logits_of(answer: Any) -> Any:
    """Return the logits in what a model answered, as it is or as Hugging Face's models and others wrap it.

    Those are a tensor; or what is called ``logits``; or the only tensor of a dictionary, list or tuple. Anything else
    is returned as it is.
    """
    kinds = Tensor | fx.Proxy
    if isinstance(answer, kinds):
        return answer
    named = answer.get("logits") if isinstance(answer, Mapping) else getattr(answer, "logits", None)
    if isinstance(named, kinds):
        return named
    parts = answer.values() if isinstance(answer, Mapping) else answer if isinstance(answer, list | tuple) else ()
    tensors = [part for part in parts if isinstance(part, kinds)]
    return tensors[0] if len(tensors) == 1 else answer


def _call(factory: Callable[..., nn.Module], spec: ModelSpec) -> nn.Module:
    try:
        return factory(**spec.options)
    # It may be a user's code: whatever it raises, and where it ends the program, the model is not built.
    except BaseException as exc:
        words = f"The architecture {spec.architecture!r} could not be built with {spec.options}"
        raise InputError(f"{words}: {foreign_cause(exc).rstrip('.')}.") from exc


def _import_factory(name: str) -> Callable[..., nn.Module]:
    module_name, _, attribute = name.rpartition(":")
    path = re.split(r"[/\\]", module_name)
    if len(path) > 1 or path[-1].endswith(".py"):
        raise InputError(
            f"{name!r} is the path of a file; stand in its folder and name its module and factory, as "
            f"{path[-1].removesuffix('.py')}:{attribute}."
        )
    try:
        module = importlib.import_module(module_name)
    except BaseException as exc:
        raise InputError(
            f"The module {module_name!r} of the architecture {name!r} cannot be imported"
            f" ({foreign_cause(exc)}); give package.module:factory of an installed package, or of a module beside you."
        ) from exc
    factory = getattr(module, attribute, None)
    if not callable(factory):
        place = getattr(module, "__file__", None) or "the interpreter"
        raise InputError(
            f"The module {module_name!r}, which is {place}, has no function {attribute!r}; give package.module:factory."
        )
    return factory  # type: ignore[no-any-return]


@contextlib.contextmanager
def _foreign_code() -> Iterator[None]:
    """Run a user's code in the folder that he stands in, without our arguments; what it prints is no answer of ours.

    What it sets for all of PyTorch, or for all warnings, ends with the block.
    """
    arguments, dtype, device = sys.argv, torch.get_default_dtype(), torch.empty(0).device
    sys.argv = arguments[:1]
    try:
        with (
            where_the_user_stands(),
            contextlib.redirect_stdout(sys.stderr),
            warnings.catch_warnings(),
            torch.set_grad_enabled(torch.is_grad_enabled()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.argv = arguments
        torch.set_default_dtype(dtype)
        if torch.empty(0).device != device:
            torch.set_default_device(None)
            del torch._GLOBAL_DEVICE_CONTEXT.device_context  # get_default_device() fails on the None in it
