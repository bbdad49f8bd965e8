"""Which blocks suffer most from int8.

int8 is rehearsed in float32: in a network that was prepared and calibrated once, activations and weights are rounded to
the values that int8 has (Jacob et al. 2018, section 3, "simulated quantization"), in one block at a time.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.ao.quantization import FixedQParamsObserver

from udacisense.stages.contract import copy_of
from udacisense.stages.int8.rounding import RoundedActivation, RoundedWeight

_WANTED_UNITS = 10
_IMAGES_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """What int8 does to the logits when one block alone is quantised."""

    module: str
    sqnr_db: float  # signal to quantisation noise of the logits; low is bad


class Rehearsal(fx.Interpreter):
    """A network that answers in float32 as its int8 copy would, with some blocks in int8 and the others as they are."""

    def __init__(self, prepared: fx.GraphModule) -> None:
        """Round every activation and weight once.

        Args:
            prepared: as FX prepares it, its observers fixed to the calibrated numbers; it stays as it is.
        """
        super().__init__(prepared)
        modules = dict(prepared.named_modules())
        self._activations = {n: RoundedActivation(m) for n, m in modules.items() if isinstance(m, FixedQParamsObserver)}
        self._layers = {n: _with_int8_weight(m) for n, m in modules.items() if getattr(m, "qconfig", None) is not None}
        facts = prepared.meta["_observed_graph_module_attrs"]
        scopes = facts.node_name_to_scope
        self._scopes = {name: scopes[name][0] for name in facts.observed_node_names if name in scopes}
        self._float: tuple[str, ...] = ()

    def answers(self, images: Tensor, float_modules: Collection[str]) -> Tensor:
        """Return the logits, float32 (n, C), with everything in int8 but the blocks that are named."""
        self._float = tuple(float_modules)
        return torch.cat([self.run(batch) for batch in torch.split(images, _IMAGES_AT_ONCE)])

    def run_node(self, n: fx.Node) -> Any:
        """Run a node; an activation is rounded where it stands before or behind an int8 operation."""
        if n.op != "call_module":
            return super().run_node(n)
        target = str(n.target)
        given, named = self.fetch_args_kwargs_from_env(n)
        if target in self._activations:
            is_rounded = any(map(self._is_int8, [*n.all_input_nodes, *n.users]))
            return self._activations[target](*given) if is_rounded else given[0]
        rounded = self._layers.get(target) if self._is_int8(n) else None
        return (rounded or self.fetch_attr(target))(*given, **named)

    def _is_int8(self, node: fx.Node) -> bool:
        scope = self._scopes.get(node.name)
        return scope is not None and not any(scope == name or scope.startswith(f"{name}.") for name in self._float)


def sensitivities(model: nn.Module, prepared: fx.GraphModule, images: Tensor) -> tuple[Sensitivity, ...]:
    """Quantise each block of a model alone and measure the logits; the block that hurts most comes first.

    Args:
        model: the float32 classifier, in evaluation mode.
        prepared: the model as FX prepares it, its observers fixed to the calibrated numbers.
        images: float32 (n, 3, H, W), normalised.
    """
    with torch.no_grad():
        rehearsal, expected = Rehearsal(prepared), model(images)
        blocks = units(model)
        noise = {one: sqnr_db(expected, rehearsal.answers(images, [b for b in blocks if b != one])) for one in blocks}
    return tuple(Sensitivity(module=one, sqnr_db=noise[one]) for one in sorted(noise, key=noise.__getitem__))


def sqnr_db(expected: Tensor, answered: Tensor) -> float:
    """Return the signal to quantisation noise of logits, in dB."""
    noise = (answered - expected).double().square().sum().clamp(min=1e-30)
    return float(10 * torch.log10(expected.double().square().sum() / noise))


def units(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the blocks that are quantised or kept as one.

    The container with the most weighted layers is opened, again and again, until there are at least ten blocks.
    """
    found = {name: child for name, child in model.named_children() if _layers(child)}
    while len(found) < _WANTED_UNITS:
        name, largest = max(found.items(), key=lambda item: _layers(item[1]))
        parts = {f"{name}.{key}": child for key, child in largest.named_children() if _layers(child)}
        if _layers(largest) < 2 or not parts:
            break
        found = {key: child for key, child in found.items() if key != name} | parts
    return tuple(found)


def _layers(module: nn.Module) -> int:
    return sum(isinstance(m, nn.Conv2d | nn.Linear) for m in module.modules())


def _with_int8_weight(module: nn.Module) -> nn.Module:
    """Return a copy of a layer, alone or fused with what follows it, whose weights are rounded."""
    copied = copy_of(module)
    for layer in copied.modules():
        weight = getattr(layer, "weight", None)
        if isinstance(weight, Tensor):
            rounded = RoundedWeight(cast("Any", module).qconfig.weight(), weight)(weight)
            cast("Any", layer).weight = nn.Parameter(rounded, requires_grad=False)
    return copied
