"""A recipe of static int8 as a float32 network that rounds, from which other runtimes' files get the same numbers.

The recipe is what :func:`udacisense.stages.static.calibrate` returned: a scale and a zero point an activation, and the
blocks that stay float32; where weights are not rounded to the nearest value, how they are. The scales of weights follow
from it: by channel, symmetric about zero.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.ao.nn.intrinsic.modules.fused import _FusedModule
from torch.ao.quantization import FixedQParamsObserver
from torch.nn.utils.parametrize import register_parametrization

from udacisense.stages.contract import replace_modules
from udacisense.stages.int8.rounding import RoundedActivation, RoundedWeight
from udacisense.stages.quantize import quantized_engine
from udacisense.stages.static import prepare_with, quiet


def rounding_network(
    model: nn.Module, engine: str, *, example: Tensor, activations: Mapping[str, Tensor]
) -> tuple[fx.GraphModule, frozenset[str]]:
    """Return the float32 network that rounds where the int8 one of a recipe does, and the names of its int8 layers.

    Args:
        model: the float32 classifier, in evaluation mode; it stays as it is.
        engine: that the recipe was made for.
        example: float32 (1, 3, H, W), for the FX trace.
        activations: the recipe.

    Raises:
        InputError: the recipe is another model's.
        NotTraceableError: FX cannot trace the model.
    """
    with quiet(), torch.no_grad(), quantized_engine(engine):
        prepared = prepare_with(model, engine, example=example, activations=activations)
        found = {name: m for name, m in prepared.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
        int8 = {name: layer for name, layer in found.items() if getattr(layer, "qconfig", None) is not None}
        for layer in int8.values():
            register_parametrization(layer, "weight", RoundedWeight(cast("Any", layer).qconfig.weight(), layer.weight))
        observers = [m for m in prepared.modules() if isinstance(m, FixedQParamsObserver)]
        replace_modules(prepared, {observer: RoundedActivation(observer) for observer in observers})
    # Fused with what follows it, a layer is the first child of what stands in its place.
    fused = {name for name, m in prepared.named_modules() if isinstance(m, _FusedModule)}
    own = (parent if (parent := name.rpartition(".")[0]) in fused else name for name in int8)
    return prepared.eval(), frozenset(own)


def recipe_sha256(activations: Mapping[str, Tensor]) -> str:
    """Return the first 16 hex digits of a recipe's SHA-256, which all files that were made from it share."""
    whole = [f"{name} {_text(activations[name])}" for name in sorted(activations)]
    return hashlib.sha256("\n".join(whole).encode()).hexdigest()[:16]


def _text(values: Tensor) -> str:
    """Return a pair of numbers, and a larger tensor's SHA-256."""
    if values.numel() <= 2:
        return str(values.double().tolist())
    return hashlib.sha256(values.contiguous().numpy().tobytes()).hexdigest()
