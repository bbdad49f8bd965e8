"""Static int8: weights and activations are int8 at scales that were found beforehand on calibration images.

Post-training quantisation in FX graph mode: BatchNorm is folded, activations are observed on calibration images
(histogram observers, Migacz 2017's idea with an L2 search), and convolutions and linear layers are replaced by int8
ones (Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference"). What calibration found is kept as one (scale, zero point) pair an observer, and how weights are rounded,
so that the very same int8 network is rebuilt elsewhere without the images.

fbgemm and x86 add two products in 16 bits where a processor has no VNNI. PyTorch gives activations 7 bits there; here
weights have them, whose rounding can be fitted.

Layers do not suffer alike. The blocks that cost the most may stay float32.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.ao.quantization import (
    FixedQParamsObserver,
    HistogramObserver,
    QConfigMapping,
    default_weight_observer,
    get_default_qconfig,
    get_default_qconfig_mapping,
)
from torch.ao.quantization.observer import ObserverBase, PerChannelMinMaxObserver
from torch.ao.quantization.qconfig import QConfig
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

from udacisense.base.records import Int8Method, Scalar
from udacisense.base.tensors import supported_engines
from udacisense.errors import InputError, StageError, UdacisenseError, cause
from udacisense.models.resizing import resize_by_products
from udacisense.stages.contract import Int8Source, StepContext, StepResult, plain_copy, replace_modules
from udacisense.stages.int8.kernels import fit_kernels
from udacisense.stages.int8.ranges import fitted_ranges
from udacisense.stages.int8.rounding import BIAS, SCALES, STEPS, fitted_rounding, round_weights
from udacisense.stages.int8.sensitivity import sensitivities, sqnr_db, units
from udacisense.stages.int8.signed import sign_activations
from udacisense.stages.quantize import quantized_engine, reshaping

# Beside the observers' pairs, calibration names each block that stays float32 by a key of this prefix.
STAYS_FLOAT = "float32:"
_WEIGHT_BITS = "weight_bits"  # int64 (1,), where it is not 8
SIGNED_BY = "qnnpack"  # the engine that runs signed activations by XNNPACK
SATURATING = {"fbgemm": 7, "x86": 7}  # bits of a weight
_SENSITIVITY_IMAGES = 32
_MIXED_IMAGES = 64
_MIXED_WITH = 3  # other images, each
_CALIBRATION_BATCH = 16


class NotTraceableError(StageError):
    """A model's forward cannot be traced or observed by FX, which PyTorch's static int8 is built on."""


def calibrate(
    model: nn.Module,
    engine: str,
    batches: Iterable[Tensor],
    *,
    float_modules: Sequence[str] = (),
    method: Int8Method = "fitted",
) -> dict[str, Tensor]:
    """Observe every activation on calibration images; fit ranges and the rounding of weights to the answers.

    Args:
        model: the float32 classifier, in evaluation mode.
        engine: quantised engine; its kernels decide on the range of values that is safe.
        batches: float32 (n, 3, H, W) each, normalised.
        float_modules: names of modules that stay float32.
        method: ``histogram`` takes the ranges of histograms and the nearest int8 weights; ``fitted`` betters both.

    Returns:
        ``<observer>`` → float64 (2,): scale and zero point; an empty tensor for each module that stays float32; the
        bits of a weight where they are not 8; and what
        :func:`udacisense.stages.int8.rounding.fitted_rounding` returned.

    Raises:
        InputError: there is no batch, or no such method.
    """
    if method not in get_args(Int8Method):
        raise InputError(f"The method is {method!r}; allowed are {' and '.join(get_args(Int8Method))}.")
    given = list(batches)
    if not given:
        raise InputError("Static int8 needs calibration images; give a data set.")
    found = {STAYS_FLOAT + name: torch.zeros(0, dtype=torch.float64) for name in float_modules}
    if engine in SATURATING:
        found[_WEIGHT_BITS] = torch.tensor([SATURATING[engine]])
    with quiet(), torch.no_grad(), quantized_engine(engine), traceable():
        prepared = _prepare(model, engine, given[0][:1], found)
        for batch in given:
            prepared(batch)
        observers = _observers(prepared)
        for name, observer in observers.items():
            scale, zero = cast("Any", observer).calculate_qparams()
            found[name] = torch.stack([scale.double().flatten()[0], zero.double().flatten()[0]])
        if method == "fitted":
            images = torch.cat(given)
            free = [key for key, found_by in observers.items() if not isinstance(found_by, FixedQParamsObserver)]
            found |= fitted_ranges(prepare_with(model, engine, example=images[:1], activations=found), images, free)
            found |= fitted_rounding(prepare_with(model, engine, example=images[:1], activations=found), images)
    return found


def static_int8(
    model: nn.Module, engine: str, *, example: Tensor, activations: Mapping[str, Tensor], signed: bool = False
) -> fx.GraphModule:
    """Return the static int8 copy of a model.

    Args:
        model: the float32 classifier, in evaluation mode; it stays as it is.
        engine: quantised engine that packs the weights.
        example: float32 (1, 3, H, W), for the FX trace.
        activations: what :func:`calibrate` returned for this model and engine.
        signed: activations are signed where that is quicker (:mod:`udacisense.stages.int8.signed`); such a network
            runs under its own engine alone.

    Raises:
        InputError: the engine is not in this PyTorch, or ``activations`` are another model's.
    """

    def converted() -> fx.GraphModule:
        prepared = prepare_with(model, engine, example=example, activations=activations)
        network = resize_by_products(convert_fx(prepared))
        return fit_kernels(network, example) if engine == SIGNED_BY else network

    with quiet(), torch.no_grad(), quantized_engine(engine), traceable():
        network = converted()
        if signed and engine == SIGNED_BY and not sign_activations(network, example):
            return converted()
        return network


def prepare_with(
    model: nn.Module, engine: str, *, example: Tensor, activations: Mapping[str, Tensor]
) -> fx.GraphModule:
    """Return the network as FX prepares it, BatchNorm folded, with observers that hold the calibrated numbers.

    The arguments are :func:`static_int8`'s, and so is what it raises.
    """
    others = (STAYS_FLOAT, _WEIGHT_BITS, STEPS, BIAS, SCALES)
    pairs = {name: value for name, value in activations.items() if not name.startswith(others)}
    prepared = _prepare(model, engine, example, activations)
    observers = _observers(prepared)
    if observers.keys() != pairs.keys():
        odd = sorted(observers.keys() ^ pairs.keys())[0]
        raise InputError(f"The calibrated activations belong to another model: {odd!r} is in only one of them.")
    fixed: dict[nn.Module, nn.Module] = {}
    for name, observer in observers.items():
        scale, zero_point = pairs[name].tolist()
        fixed[observer] = cast("Any", FixedQParamsObserver)(
            scale,
            int(zero_point),
            dtype=observer.dtype,
            quant_min=observer.quant_min,
            quant_max=observer.quant_max,
        )
    replace_modules(prepared, fixed)
    round_weights(prepared, activations)
    return prepared


def stays_float(activations: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Return the names of the modules that a calibration leaves in float32."""
    return tuple(name.removeprefix(STAYS_FLOAT) for name in activations if name.startswith(STAYS_FLOAT))


def choose_float_modules(
    model: nn.Module,
    engine: str,
    images: Tensor,
    *,
    most: int,
    wanted_sqnr_db: float = 20.0,
    method: Int8Method = "fitted",
) -> tuple[tuple[str, ...], dict[str, Tensor] | None]:
    """Return the fewest blocks, at most ``most``, that have to stay float32 for the decisions to stay the same.

    Blocks are added in the order of :func:`udacisense.stages.int8.sensitivity.sensitivities`, until the int8 model's
    logits of :func:`mixtures` are ``wanted_sqnr_db`` above their noise. Where that is never reached, the best set is
    taken.

    A network is sure of the images that it was trained on: int8 that changed 5 % of the decisions on unseen photographs
    changed none there. Between two classes it shows: shipped networks with 20 dB or more on mixtures kept 97 to 99 % of
    the decisions on photographs, and those with 12 to 18 dB kept 94.6 to 95.4 %.

    Args:
        model: the float32 classifier, in evaluation mode.
        engine: quantised engine.
        images: float32 (n, 3, H, W), normalised.
        most: 0 or more; 0 keeps nothing float32, and costs nothing.
        wanted_sqnr_db: signal to quantisation noise of the logits.
        method: see :func:`calibrate`; a network with blocks in float32 is tried by ``histogram``, which is quicker.

    Returns:
        Their names, and the recipe that ``method`` found for them on the images; None where it was not tried so.
    """
    if most == 0:
        return (), None
    mixed, ranked = mixtures(images), list[str]()
    with torch.no_grad():
        expected = torch.cat([model(batch) for batch in torch.split(mixed, _CALIBRATION_BATCH)])
    best: tuple[float, tuple[str, ...], dict[str, Tensor] | None] = (-math.inf, (), None)
    for count in range(most + 1):
        if count == 1:  # only now: most models need no second look
            few = images[:_SENSITIVITY_IMAGES]
            found = calibrate(model, engine, torch.split(few, _CALIBRATION_BATCH), method="histogram")
            prepared = prepare_with(model, engine, example=few[:1], activations=found)
            ranked = [sensitive.module for sensitive in sensitivities(model, prepared, few)]
        chosen = tuple(ranked[:count])
        tried: Int8Method = "histogram" if chosen else method  # with blocks in float32, a fit for each choice is dear
        found = calibrate(model, engine, torch.split(images, _CALIBRATION_BATCH), float_modules=chosen, method=tried)
        reached_db = sqnr_db(expected, _answers(model, engine, found, asked=mixed))
        best = max(best, (reached_db, chosen, found if tried == method else None), key=lambda one: one[0])
        if reached_db >= wanted_sqnr_db or count == len(units(model)) - 1:
            break
    return best[1:]


def mixtures(images: Tensor) -> Tensor:
    """Return means of two images, between whose classes a network decides narrowly.

    Args:
        images: float32 (n, 3, H, W).

    Returns:
        float32 (m, 3, H, W); a single image stays as it is.
    """
    few = images[:_MIXED_IMAGES]
    steps = range(1, min(_MIXED_WITH + 1, len(few)))
    return torch.cat([(few + few.roll(step, 0)) / 2 for step in steps]) if len(few) > 1 else few


def apply_static_quantization(
    model: nn.Module,
    context: StepContext,
    *,
    engine: str | None = None,
    calibration: int = 128,
    max_float_blocks: int = 3,
    method: Int8Method = "fitted",
) -> StepResult:
    """Pipeline step: static int8 of convolutions and linear layers; see :func:`calibrate`.

    Args:
        model: an eager float32 model.
        context: its training batches are calibrated on (augmented as they are).
        engine: ``None`` takes the one PyTorch prefers on this host.
        calibration: images to observe.
        max_float_blocks: how many blocks may stay float32 where int8 changes decisions.
        method: see :func:`calibrate`.

    Raises:
        InputError: a number is out of range, or this host lacks the engine.
    """
    if calibration < 1 or max_float_blocks < 0:
        raise InputError(
            f"Calibration on {calibration} images with {max_float_blocks} float32 blocks: allowed are 1 or more "
            "images, and 0 or more blocks."
        )
    chosen = engine if engine is not None else next(iter(supported_engines()), "none")
    images = first_images(context, calibration)
    with quantized_engine(chosen):
        kept, found = choose_float_modules(model, chosen, images, most=max_float_blocks, method=method)
        if found is None:
            batches = torch.split(images, _CALIBRATION_BATCH)
            found = calibrate(model, chosen, batches, float_modules=kept, method=method)
        packed = static_int8(model, chosen, example=images[:1], activations=found)
    notes: dict[str, Scalar] = {"engine": chosen, "calibration_images": len(images), "method": method}
    notes["float32_blocks"] = " ".join(kept) or "none"
    return StepResult(model=packed, notes=notes, source=Int8Source(engine=chosen, recipe=found))


def first_images(context: StepContext, count: int) -> Tensor:
    """Return the first training images, augmented as they are: float32 (count, 3, H, W), or fewer."""
    set_epoch = getattr(context.train, "set_epoch", None)
    if set_epoch is not None:
        set_epoch(0)
    found: list[Tensor] = []
    for images, _ in context.train:
        found.append(images)
        if sum(map(len, found)) >= count:
            break
    if not found:
        raise InputError("Static int8 needs calibration images; there are no training images.")
    return torch.cat(found)[:count]


def _answers(model: nn.Module, engine: str, recipe: Mapping[str, Tensor], *, asked: Tensor) -> Tensor:
    """Return what the int8 model of a recipe answers."""
    packed = static_int8(model, engine, example=asked[:1], activations=recipe)
    with torch.no_grad(), quantized_engine(engine), traceable():
        return torch.cat([packed(batch) for batch in torch.split(asked, _CALIBRATION_BATCH)])


def _prepare(model: nn.Module, engine: str, example: Tensor, recipe: Mapping[str, Tensor]) -> fx.GraphModule:
    with traceable():
        return reshaping(prepare_fx(plain_copy(model), _qconfig_mapping(engine, recipe), (example,)))


@contextmanager
def traceable() -> Iterator[None]:
    """Let what FX and its observers raise on a model that is not for them be one sentence.

    Raises:
        NotTraceableError: they raised something.
    """
    try:
        yield
    except UdacisenseError:
        raise
    # FX runs the model's own code on stand-ins for tensors, so anything may come.
    except Exception as exc:
        raise NotTraceableError(
            f"PyTorch's int8 needs a forward that torch.fx can trace and observe, and this one's cannot be "
            f"({cause(exc).rstrip('.')}); take static int8 as ONNX or ExecuTorch, which need no FX."
        ) from exc


def _qconfig_mapping(engine: str, recipe: Mapping[str, Tensor]) -> QConfigMapping:
    mapping, config = get_default_qconfig_mapping(engine), cast("Any", QConfig)
    activation, ends = cast("Any", get_default_qconfig)(engine).activation, {}
    if _WEIGHT_BITS in recipe:
        half = 2 ** (int(recipe[_WEIGHT_BITS]) - 1)
        activation, ends = HistogramObserver.with_args(reduce_range=False), {"quant_min": -half, "quant_max": half - 1}
        one_scale = default_weight_observer.with_args(**ends)
        for kind in (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d):
            mapping.set_object_type(kind, config(activation=activation, weight=one_scale))
    if engine == "qnnpack" or ends:
        # QNNPACK's kernels take one weight scale a channel, which depthwise convolutions need, but its default
        # configuration asks for one a tensor.
        weight = PerChannelMinMaxObserver.with_args(dtype=torch.qint8, qscheme=torch.per_channel_symmetric, **ends)
        mapping.set_global(config(activation=activation, weight=weight))
    for name in stays_float(recipe):
        mapping.set_module_name(name, None)
    # Resizing 8-bit input again would quantise every pixel before the network has seen it.
    return mapping.set_object_type(F.interpolate, None).set_object_type(nn.Upsample, None)


def _observers(prepared: fx.GraphModule) -> dict[str, ObserverBase]:
    """The activation observers that FX inserted; several places may share one, which then counts once."""
    return {
        name: module
        for name, module in prepared.named_modules()
        if isinstance(module, ObserverBase) and name.startswith("activation_post_process_")
    }


@contextmanager
def quiet() -> Iterator[None]:
    """Silence torch.ao's notices: that it moves to another package, and that reduce_range is its own default."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"torch\.ao\..*")
        warnings.filterwarnings("ignore", message=r".*torch\.ao\.quantization is deprecated.*")
        warnings.filterwarnings("ignore", message=r"Node .* does not reference an nn\.Module")  # its own packed weights
        yield
