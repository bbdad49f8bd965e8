"""How much of a network really computes in int8: modules, share of weights, share of multiply-accumulates."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from torch import Tensor, nn
from torch.ao.nn import quantized as nnq
from torch.ao.nn.quantized import dynamic as nnqd
from torch.nn.utils import parametrize

from exporters.bundle.file_layer import FileLayer
from exporters.bundle.manifest import Coverage
from udacisense.measure.counts import count_parameters, macs_by_module

if TYPE_CHECKING:
    from exporters.formats.workbench import Workbench

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
    """Cost of one module: a convolution, a linear or recurrent layer, attention."""

    name: str
    weights: tuple[Tensor, ...]  # those of layers that share them are the same objects
    macs: int


def layers(model: nn.Module, example: Tensor) -> tuple[Layer, ...]:
    """Return every module that multiplies weights with ``example``, or parts of it with each other, in any order."""
    return tuple(
        Layer(name, tuple(_weights(model.get_submodule(name))), macs)
        for name, macs in macs_by_module(model, tuple(example.shape)).items()
    )


def _weights(module: nn.Module) -> Iterator[Tensor]:
    """Yield what a module multiplies with: its own parameters but for biases, and those a parametrisation computes."""
    yield from (weight for weight in module.parameters(recurse=False) if weight.ndim > 1)
    if parametrize.is_parametrized(module):
        computed = (getattr(module, name) for name in cast("nn.ModuleDict", module.parametrizations))
        yield from (weight for weight in computed if weight.ndim > 1)


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
    parameters = count_parameters(model)
    chosen = [layer for layer in found if layer.name in int8]
    # Weights that several layers share are there once.
    weights = {id(weight): weight for layer in chosen for weight in layer.weights}
    return Coverage(
        modules_int8=len(chosen),
        modules_total=len(found),
        parameters_int8_fraction=_fraction(sum(weight.numel() for weight in weights.values()), parameters),
        macs_int8_fraction=_fraction(sum(layer.macs for layer in chosen), sum(layer.macs for layer in found)),
    )


def coverage_of_file(bench: Workbench, found: Sequence[FileLayer]) -> Coverage:
    """Return what computes in int8, as a file itself has it.

    Args:
        bench: with the float32 model.
        found: every layer of the file.
    """
    chosen = [layer for layer in found if layer.is_int8]
    weights, held = sum(layer.weights.size for layer in chosen), sum(layer.weights.size for layer in found)
    # A file may hold weights that layers share once for each.
    parameters = max(held, count_parameters(bench.model))
    return Coverage(
        modules_int8=len(chosen),
        modules_total=len(layers(bench.model, bench.golden_inputs[:1])),
        parameters_int8_fraction=_fraction(weights, parameters),
        macs_int8_fraction=_fraction(sum(layer.macs for layer in chosen), sum(layer.macs for layer in found)),
    )


def _fraction(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
