"""How much of a network really computes in int8: modules, share of weights, share of multiply-accumulates."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.ao.nn import quantized as nnq
from torch.ao.nn.quantized import dynamic as nnqd

from exporters.bundle.manifest import Coverage

_FLOAT = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
_INT8 = (
    nnq.Conv1d,
    nnq.Conv2d,
    nnq.Conv3d,
    nnq.ConvTranspose1d,
    nnq.ConvTranspose2d,
    nnq.ConvTranspose3d,
    nnq.Linear,
    nnqd.Linear,
)


@dataclass(frozen=True)
class Layer:
    """Cost of one convolution or linear layer."""

    name: str
    weights: int
    macs: int


def layers(model: nn.Module, example: Tensor) -> tuple[Layer, ...]:
    """Run ``example`` once and return every convolution and linear layer that it met, in order.

    A layer that is called several times counts its multiply-accumulates each time.
    """
    macs: dict[str, int] = {}
    weights: dict[str, int] = {}

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def count(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            macs[name] = macs.get(name, 0) + _macs(module, inputs[0], output)
            weights[name] = _weight(module).numel()

        return module.register_forward_hook(count)

    handles = [watch(name, m) for name, m in model.named_modules() if isinstance(m, _FLOAT)]
    try:
        with torch.no_grad():
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    return tuple(Layer(name, weights[name], macs[name]) for name in macs)


def int8_modules(converted: nn.Module) -> frozenset[str]:
    """Return the names of the int8 convolutions and linear layers in an eager quantised model."""
    return frozenset(name for name, module in converted.named_modules() if isinstance(module, _INT8))


def coverage(model: nn.Module, example: Tensor, int8: Collection[str]) -> Coverage:
    """Return the coverage of a quantised model.

    Args:
        model: the float32 model that it was made from.
        example: float32 (n, 3, H, W), n of any size.
        int8: names of the layers that compute in int8.
    """
    found = layers(model, example)
    parameters = sum(p.numel() for p in model.parameters())
    chosen = [layer for layer in found if layer.name in int8]
    return Coverage(
        modules_int8=len(chosen),
        modules_total=len(found),
        parameters_int8_fraction=_fraction(sum(layer.weights for layer in chosen), parameters),
        macs_int8_fraction=_fraction(sum(layer.macs for layer in chosen), sum(layer.macs for layer in found)),
    )


def coverage_line(found: Coverage) -> str:
    """Return the coverage in words, for a person.

    >>> coverage_line(Coverage(modules_int8=2, modules_total=54, parameters_int8_fraction=0.39,
    ...                        macs_int8_fraction=0.011))
    'int8: 2 of 54 conv/linear modules, 39.0 % of parameters, 1.1 % of MACs'
    """
    return (
        f"int8: {found.modules_int8} of {found.modules_total} conv/linear modules, "
        f"{found.parameters_int8_fraction:.1%} of parameters, {found.macs_int8_fraction:.1%} of MACs"
    ).replace("%", " %")


def _macs(module: nn.Module, given: Tensor, answered: Tensor) -> int:
    weight = _weight(module)
    if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        return given.numel() * math.prod(weight.shape[1:])  # each input value meets (out / groups) × kernel
    return answered.numel() * math.prod(weight.shape[1:])  # each output value needs (in / groups) × kernel


def _weight(module: nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight


def _fraction(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
