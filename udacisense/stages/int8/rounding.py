"""Which int8 value each weight takes: the nearest one, or the one that leaves a layer's answers as they were.

The nearest value is best for a weight alone. A layer's answers are sums, in which one weight can make good what another
lost: their error is quadratic in the weights' (Nagel et al. 2020, "Up or Down? Adaptive Rounding for Post-Training
Quantization", section 3). It is made small as GPTQ does it (Frantar et al. 2022, section 3): an input's weights are
rounded, and their error goes into the weights of the inputs that are still to come.

A layer's inputs are those that the int8 layers before it leave. So its weights are first fitted, by least squares with
a pull to the trained ones, to answer to them as the float32 layer to its own; and its bias takes what is left of the
mean (Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.ao.nn.intrinsic.modules.fused import _FusedModule
from torch.ao.quantization import FixedQParamsObserver
from torch.ao.quantization.observer import ObserverBase
from torch.ao.quantization.qconfig import QConfig

from udacisense.base.records import Int8Method
from udacisense.errors import InputError
from udacisense.stages.contract import copy_of, replace_modules

# Of a layer, in a recipe: by how many steps each weight is off the nearest value, and what its bias gains; or the
# scales of its channels as training with rounding left them, which do not follow from its weights.
STEPS, BIAS, SCALES = "rounding:", "bias:", "scales:"
_PULL = 0.1  # to the trained weights, in mean squares of an input
_DAMPING = 0.01  # of the inverse, likewise
_MOST_BYTES = 128_000_000  # of one activation, of all images together
_IMAGES_AT_ONCE = 4


class RoundedActivation(nn.Module):
    """Rounds values to ``scale · (q - zero_point)``, q a whole number within the observer's range."""

    def __init__(self, observer: Any) -> None:
        super().__init__()
        scale, zero_point = observer.calculate_qparams()
        self.numbers = float(scale), int(zero_point), int(observer.quant_min), int(observer.quant_max)

    def forward(self, values: Tensor) -> Tensor:
        """Return the rounded values, of the same shape."""
        return torch.fake_quantize_per_tensor_affine(values, *self.numbers)


class RoundedWeight(nn.Module):
    """Rounds a weight (out, …) to int8, by channel or as one: a parametrisation."""

    scale: Tensor
    zero_point: Tensor

    def __init__(self, observer: Any, weight: Tensor) -> None:
        super().__init__()
        observer(weight)
        scale, zero_point = observer.calculate_qparams()
        self.axis = getattr(observer, "ch_axis", 0)
        channels = weight.shape[self.axis]
        self.register_buffer("scale", scale.float().expand(channels).contiguous())
        self.register_buffer("zero_point", zero_point.to(torch.int32).expand(channels).contiguous())

    def forward(self, weight: Tensor) -> Tensor:
        """Return the rounded weight: within int8, as kernels clamp; an observer's narrower range gives scales alone."""
        return torch.fake_quantize_per_channel_affine(weight, self.scale, self.zero_point, self.axis, -128, 127)


class _KeptScale(ObserverBase):
    """Stands for the observer of a weight whose scales are known."""

    def __init__(self, scale: Tensor, observer: Any) -> None:
        super().__init__(torch.qint8)
        self.scale, self.qscheme, self.ch_axis = scale, torch.per_channel_symmetric, 0
        self.quant_min, self.quant_max = observer.quant_min, observer.quant_max

    def forward(self, weight: Tensor) -> Tensor:
        return weight

    def calculate_qparams(self, **_: Any) -> Any:
        return self.scale, torch.zeros(len(self.scale), dtype=torch.int64)


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """What a layer was given: x by the float32 layers before it, z by the int8 ones; in g groups of d inputs."""

    among: Tensor  # float64 (g, d, d), covariance of z
    across: Tensor  # float64 (g, d, d), of x and z
    means: tuple[Tensor, Tensor]  # float64 (g, d) each, of x and of z


def round_weights(prepared: fx.GraphModule, recipe: Mapping[str, Tensor]) -> None:
    """Give a prepared network's layers the weights, biases and scales that a recipe says, where it does: in place.

    Raises:
        InputError: the recipe is of other layers.
    """
    modules = dict(prepared.named_modules())
    for key, value in recipe.items():
        kind, _, name = key.partition(":")
        if f"{kind}:" not in (STEPS, SCALES):
            continue
        layer, bias = _layer(modules.get(name)), recipe.get(BIAS + name)
        if f"{kind}:" == SCALES:
            is_its_own = getattr(layer, "qconfig", None) is not None and layer.weight.shape[:1] == value.shape
        else:
            is_its_own = _can_be_fitted(layer) and layer.weight.shape == value.shape
            is_its_own = is_its_own and bias is not None and bias.shape == value.shape[:1]
        if not is_its_own:
            raise InputError(
                f"The calibrated activations belong to another model: they round the weights of {name!r}, and it "
                "has no such int8 layer."
            )
        if bias is None:
            _keep_scale(modules[name], value, layer.qconfig.weight())
        else:
            _set(modules[name], value, bias)


def method_of(recipe: Mapping[str, Tensor]) -> Int8Method | Literal["qat"]:
    """Return how a recipe was found: by one of the ways to calibrate, or by training with rounding."""
    if any(name.startswith(SCALES) for name in recipe):
        return "qat"
    return "fitted" if any(name.startswith(STEPS) for name in recipe) else "histogram"


def fitted_rounding(prepared: fx.GraphModule, images: Tensor) -> dict[str, Tensor]:
    """Return how the weights of a network are to be rounded, for :func:`round_weights`.

    Args:
        prepared: as FX prepares it, its observers fixed to the calibrated numbers; it stays as it is.
        images: float32 (n, 3, H, W), normalised; of large ones the first alone are taken, for the sake of memory.

    Returns:
        ``rounding:<layer>`` → int8 (out, …), steps off the nearest value; ``bias:<layer>`` → float32 (out,).
    """
    found: dict[str, Tensor] = {}
    networks = [_with(prepared, observed) for observed in (lambda _: nn.Identity(), RoundedActivation)]
    plain, rounded = runs = [fx.Interpreter(network) for network in networks]
    images = images[: _most_images(plain, images[:1])]
    for run in runs:
        run.args_iter = iter([images])
    for node in prepared.graph.nodes:
        if node.op == "call_module" and STEPS + node.target not in found:
            module = rounded.module.get_submodule(node.target)
            if _can_be_fitted(layer := _layer(module)):
                given = [cast("Tensor", run.fetch_args_kwargs_from_env(node)[0][0]) for run in runs]
                steps, bias = _fit(layer, _seen(layer, *given))
                found |= {STEPS + node.target: steps, BIAS + node.target: bias}
                _set(module, steps, bias)
        for run in runs:
            run.env[node] = run.run_node(node)
            for dead in run.user_to_last_uses.get(node, ()):
                del run.env[dead]
    return found


def _with(prepared: fx.GraphModule, observed: Any) -> fx.GraphModule:
    network = cast("fx.GraphModule", copy_of(prepared))
    observers = [module for module in network.modules() if isinstance(module, FixedQParamsObserver)]
    replace_modules(network, {observer: observed(observer) for observer in observers})
    return network


def _most_images(run: fx.Interpreter, image: Tensor) -> int:
    """Return how many images may be taken so that no activation of all of them is too large."""
    sizes = [1]
    run.args_iter = iter([image])
    for node in cast("fx.GraphModule", run.module).graph.nodes:
        made = run.env[node] = run.run_node(node)
        sizes.append(made.nbytes if isinstance(made, Tensor) else 1)
    run.env.clear()
    return max(1, _MOST_BYTES // max(sizes))


def _layer(module: nn.Module | None) -> Any:
    return next(module.children()) if isinstance(module, _FusedModule) else module


def _can_be_fitted(layer: Any) -> bool:
    """Tell whether a layer is int8, and its answers are sums over zero-padded patches of its input."""
    if not isinstance(layer, nn.Conv2d | nn.Linear) or getattr(layer, "qconfig", None) is None:
        return False
    return isinstance(layer, nn.Linear) or (layer.padding_mode == "zeros" and not isinstance(layer.padding, str))


def _scale(layer: Any) -> tuple[Tensor, Any]:
    observer = layer.qconfig.weight()
    observer(layer.weight)
    return observer.calculate_qparams()[0].float(), observer


def _by_channel(layer: Any, scale: Tensor) -> Tensor:
    return scale.view(-1, *(1,) * (layer.weight.dim() - 1))


def _nearest(layer: Any, scale: Tensor) -> Tensor:
    """Return the whole number of steps that is nearest to each weight, in float32: what a recipe counts from."""
    return cast("Tensor", layer.weight.detach() / _by_channel(layer, scale)).round()


def _set(module: nn.Module, steps: Tensor, bias: Tensor) -> None:
    """Round a layer's weight to the nearest value plus ``steps``, and add ``bias``, in place."""
    layer = _layer(module)
    scale, observer = _scale(layer)
    whole = (_nearest(layer, scale) + steps).clamp(observer.quant_min, observer.quant_max)
    layer.weight = nn.Parameter(whole * _by_channel(layer, scale), requires_grad=False)
    layer.bias = nn.Parameter(bias if layer.bias is None else layer.bias + bias, requires_grad=False)
    _keep_scale(module, scale, observer)


def _keep_scale(module: nn.Module, scale: Tensor, observer: Any) -> None:
    """Let a layer's weight be rounded at given scales, in place."""
    layer = _layer(module)
    kept = cast("Any", QConfig)(activation=layer.qconfig.activation, weight=partial(_KeptScale, scale, observer))
    layer.qconfig = cast("Any", module).qconfig = kept


def _patches(layer: Any, maps: Tensor) -> Tensor:
    """Return what each answer of a layer is a sum over: (groups, inputs, positions)."""
    if isinstance(layer, nn.Linear):
        return maps.reshape(1, -1, maps.shape[-1]).transpose(1, 2)
    size, stride, padding, dilation = layer.kernel_size, layer.stride, layer.padding, layer.dilation
    if size == stride == (1, 1) and padding == (0, 0):
        patches = maps.flatten(2)
    else:
        patches = F.unfold(maps, size, dilation=dilation, padding=padding, stride=stride)
    grouped = patches.reshape(len(patches), layer.groups, -1, patches.shape[2])
    return grouped.permute(1, 2, 0, 3).flatten(2)


def _seen(layer: Any, plain: Tensor, rounded: Tensor) -> _Seen:
    moments: list[Tensor] = []
    count = 0
    for batch in zip(torch.split(plain, _IMAGES_AT_ONCE), torch.split(rounded, _IMAGES_AT_ONCE), strict=True):
        x, z = (_patches(layer, maps) for maps in batch)
        made = [part.double() for part in (z @ z.mT, x @ z.mT, x.sum(dim=2), z.sum(dim=2))]
        moments = [total + part for total, part in zip(moments, made, strict=True)] if moments else made
        count += x.shape[2]
    among, across, mean_x, mean_z = (total / count for total in moments)
    return _Seen(
        among=among - mean_z[:, :, None] * mean_z[:, None, :],
        across=across - mean_x[:, :, None] * mean_z[:, None, :],
        means=(mean_x, mean_z),
    )


def _fit(layer: Any, seen: _Seen) -> tuple[Tensor, Tensor]:
    """Return a layer's steps off the nearest values, and what its bias gains."""
    scale, observer = _scale(layer)
    groups, inputs = seen.among.shape[:2]
    weight = layer.weight.detach().double().view(groups, -1, inputs)
    by_channel = scale.double().view(groups, -1, 1)
    ends = observer.quant_min, observer.quant_max
    nearest = _nearest(layer, scale).clamp(*ends).double().view(groups, -1, inputs)
    wanted = weight @ seen.across
    whole = nearest
    if bool(torch.isfinite(wanted).all() and torch.isfinite(seen.among).all()):
        try:
            fitted = _column_by_column(weight, wanted, seen.among, by_channel, ends)
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # an input that hardly varies: its covariance is rounding noise
            fitted = nearest

        def error(values: Tensor) -> Tensor:
            """Of each channel, but for what no rounding changes."""
            rounded = values * by_channel
            return torch.sum((rounded @ seen.among - 2 * wanted) * rounded, dim=2, keepdim=True)

        whole = torch.where(error(fitted) < error(nearest), fitted, nearest)
    bias = weight @ seen.means[0][:, :, None] - (whole * by_channel) @ seen.means[1][:, :, None]
    steps = (whole - nearest).clamp(-128, 127).to(torch.int8).view(layer.weight.shape)
    return steps, bias.flatten().float().nan_to_num()


def _column_by_column(
    weight: Tensor, wanted: Tensor, among: Tensor, by_channel: Tensor, ends: tuple[int, int]
) -> Tensor:
    """Return whole numbers of steps, float64 (g, out, d), that answer close to ``wanted``."""
    unit = torch.eye(among.shape[1], dtype=torch.float64)
    unit = unit * among.diagonal(dim1=1, dim2=2).mean(dim=1).clamp(min=1e-12)[:, None, None]
    left = torch.linalg.solve(among + _PULL * unit, (wanted + _PULL * weight @ unit).mT).mT.contiguous()
    # Row j of the factor tells how the inputs after j make good an error at j (Frantar et al. 2022, step 3).
    factor = torch.linalg.cholesky(torch.linalg.inv(among + _DAMPING * unit), upper=True)
    whole = torch.zeros_like(left)
    for j in range(left.shape[2]):
        whole[:, :, j] = (left[:, :, j] / by_channel[:, :, 0]).round().clamp(*ends)
        error = (left[:, :, j] - whole[:, :, j] * by_channel[:, :, 0]) / factor[:, j, j, None]
        left[:, :, j:] -= error[:, :, None] * factor[:, None, j, j:]
    return whole
