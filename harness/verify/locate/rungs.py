"""The stage ladder: eager → fused → quantised → traced → frozen → mobile-optimised → saved and loaded → the file.

Every rung but the last is made again here, from the bundle's own reference, by the same library calls that an export
makes. Each is held against the rung below it; the first that leaves tolerance is where it broke.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from exporters.bundle.manifest import Variant
from exporters.bundle.open import Bundle
from exporters.bundle.reference import eager_source, has_own_source
from exporters.formats.pointwise import is_plain_ptl
from harness.verify.locate.trace import Trace, one_by_one, trace_eager, trace_script

FloatArray = NDArray[np.float32]
SHIPPED = "the file"


@dataclass(frozen=True, kw_only=True)
class Context:
    """What the rungs are made from."""

    bundle: Bundle
    variant: Variant
    example: Tensor  # float32 (1, 3, H, W), as the variant is fed
    allow_factory: str | None


Step = Callable[[nn.Module, Context], nn.Module | None]  # None: this variant has no such rung


def _eager(_: nn.Module, context: Context) -> nn.Module:
    as_float32 = dataclasses.replace(context.variant, precision="fp32", engine=None)
    return eager_source(context.bundle, as_float32, allow_factory=context.allow_factory)


def _fused(_: nn.Module, context: Context) -> nn.Module | None:
    """Fold every BatchNorm into the convolution before it, in a model that is built again: not all can be copied."""
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    fused = _eager(_, context)
    _settle(fused)
    pairs = _conv_bn_pairs(fused, context.example)
    for conv_name, norm_name in pairs:
        conv, norm = fused.get_submodule(conv_name), fused.get_submodule(norm_name)
        _replace(fused, conv_name, fuse_conv_bn_eval(cast("Any", conv), cast("Any", norm)))
        _replace(fused, norm_name, nn.Identity())
    return fused if pairs else None


def _settle(model: nn.Module) -> None:
    """Compute weights that are made anew at each call (``torch.nn.utils.weight_norm``) once and for all."""
    from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm

    for module in model.modules():
        for hook in [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, WeightNorm)]:
            remove_weight_norm(module, hook.name)


def _conv_bn_pairs(model: nn.Module, example: Tensor) -> list[tuple[str, str]]:
    """Return (convolution, BatchNorm) where the second takes exactly what the first gave, once."""
    outputs: dict[int, str] = {}
    kept: list[Tensor] = []  # alive, so that no identity is used twice
    pairs: list[tuple[str, str]] = []

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def watch(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
            if isinstance(module, nn.BatchNorm2d):
                if id(given[0]) in outputs:
                    pairs.append((outputs[id(given[0])], name))
            else:
                outputs[id(output)] = name
                kept.append(output)

        return watch

    with ExitStack() as hooks, torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
                hooks.enter_context(module.register_forward_hook(hook(name)))
        model(example)
    return pairs


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, module)


def _quantised(_: nn.Module, context: Context) -> nn.Module | None:
    if not has_own_source(context.variant):
        return None
    return eager_source(context.bundle, context.variant, allow_factory=context.allow_factory)


def _traced(model: nn.Module, context: Context) -> nn.Module:
    with torch.inference_mode():
        traced: nn.Module = torch.jit.trace(model, context.example, check_trace=False)  # type: ignore[no-untyped-call]
    return traced


def _frozen(model: nn.Module, _: Context) -> nn.Module:
    return cast("nn.Module", torch.jit.freeze(cast("torch.jit.ScriptModule", model)))


def _mobile_optimised(model: nn.Module, context: Context) -> nn.Module | None:
    if context.variant.format != "ptl" or is_plain_ptl(context.variant):
        return None
    from torch.utils.mobile_optimizer import optimize_for_mobile

    return cast("nn.Module", optimize_for_mobile(cast("torch.jit.ScriptModule", model)))


def _saved_and_loaded(model: nn.Module, context: Context) -> nn.Module | None:
    if context.variant.format not in {"torchscript", "ptl"}:
        return None
    with tempfile.TemporaryDirectory(prefix="udacisense-ladder-") as name:
        path = str(Path(name) / "model")
        if context.variant.format == "ptl":
            cast("Any", model)._save_for_lite_interpreter(path)
        else:
            torch.jit.save(model, path)  # type: ignore[no-untyped-call]
        return cast("nn.Module", torch.jit.load(path, map_location="cpu"))  # type: ignore[no-untyped-call]


STEPS: Mapping[str, Step] = {
    "eager": _eager,
    "fused": _fused,
    "quantised": _quantised,
    "traced": _traced,
    "frozen": _frozen,
    "mobile-optimised": _mobile_optimised,
    "saved and loaded": _saved_and_loaded,
}


@dataclass(frozen=True)
class Rung:
    """One rung: a model made again, and what it answers."""

    name: str
    model: nn.Module
    outputs: FloatArray

    def trace(self, images: Tensor) -> Trace:
        """Trace the images one by one."""
        model = self.model
        if isinstance(model, torch.jit.ScriptModule):
            return one_by_one(lambda one: trace_script(model, one), images)
        return one_by_one(lambda one: trace_eager(model, one), images)


def climb(
    context: Context,
    images: Tensor,
    *,
    steps: Mapping[str, Step] = STEPS,
    reached: Callable[[str], None] = lambda _: None,
) -> list[Rung]:
    """Make every rung that the variant has, in order.

    Args:
        context: what they are made from.
        images: float32 (n, 3, H, W), answered one by one.
        steps: name → how the rung is made from the one below.
        reached: told of each rung before it is made, so that a crash can be placed.
    """
    rungs: list[Rung] = []
    model: nn.Module = nn.Identity()
    for name, step in steps.items():
        reached(name)
        # After quantising, "fused" is no part of the way: PyTorch's quantiser folds on its own.
        base = model if name != "quantised" else nn.Identity()
        made = step(base, context)
        if made is None:
            continue
        model = made
        if not isinstance(made, torch.jit.ScriptModule):
            made.eval()
        with torch.inference_mode():
            outputs = torch.cat([made(image) for image in images.split(1)]).numpy()  # type: ignore[no-untyped-call]
        rungs.append(Rung(name, made, outputs))
    return rungs
