"""Networks whose layers have other widths than their builder gives them, as structured pruning leaves them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from udacisense.base.records import ModelSpec
from udacisense.errors import InputError

SHAPES = "tensor_shapes"  # option of a spec: "features.0.weight=24x3x3x3 ...", those that the builder makes otherwise
_NORMS = nn.modules.batchnorm._BatchNorm | nn.modules.instancenorm._InstanceNorm


def fitted_spec(spec: ModelSpec, model: nn.Module, built: nn.Module) -> ModelSpec:
    """Return a spec that builds a model: with the shapes of what its builder makes otherwise, if that is all.

    Args:
        spec: that the model began as.
        model: with the same modules, some of them narrower.
        built: what the spec builds.
    """
    usual, own = (_shapes(network) for network in (built, model))
    if usual.keys() != own.keys() or usual == own:
        return spec
    other = " ".join(f"{name}={'x'.join(map(str, own[name]))}" for name in own if own[name] != usual[name])
    return replace(spec, options={**spec.options, SHAPES: other})


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def give_shapes(model: nn.Module, shapes: str) -> None:
    """Give tensors of a model, by their names in its state, other shapes; their values are zero.

    ``0.weight=8x3x3x3 0.bias=8`` makes layer 0 of ``Sequential(Conv2d(3, 16, 3))`` a ``Conv2d(3, 8, 3)``.

    Raises:
        InputError: the text is none of this kind, or the model has no such tensor.
    """
    try:
        given = {n: tuple(map(int, s.split("x"))) for n, _, s in (word.partition("=") for word in shapes.split())}
        held = model.state_dict(keep_vars=True)
        wrong = [n for n, shape in given.items() if len(shape) != held[n].dim() or not _are_fewer(shape, held[n])]
    except (KeyError, ValueError) as exc:
        raise InputError(f"The option {SHAPES} does not fit the network ({exc}); make the artifact again.") from exc
    if wrong:
        raise InputError(f"The option {SHAPES} makes {wrong[0]} no narrower; make the artifact again.")
    for name, shape in given.items():
        owner, _, own_name = name.rpartition(".")
        module: Any = model.get_submodule(owner)
        empty = torch.zeros(shape, dtype=held[name].dtype)
        setattr(module, own_name, nn.Parameter(empty) if isinstance(held[name], nn.Parameter) else empty)
    for module in model.modules():
        _tell_widths(module)


def _are_fewer(shape: tuple[int, ...], tensor: Tensor) -> bool:
    return all(0 < size <= usual for size, usual in zip(shape, tensor.shape, strict=True))


def _tell_widths(module: Any) -> None:
    """Let a layer's numbers follow from its tensors."""
    if isinstance(module, nn.Conv2d):
        is_depthwise = module.groups == module.in_channels > 1
        module.out_channels = module.weight.shape[0]
        module.groups = module.out_channels if is_depthwise else module.groups
        module.in_channels = module.weight.shape[1] * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, _NORMS) and module.weight is not None:
        module.num_features = len(module.weight)
    elif isinstance(module, nn.GroupNorm) and module.weight is not None:
        module.num_channels = len(module.weight)
    elif isinstance(module, nn.LayerNorm) and module.weight is not None:
        module.normalized_shape = tuple(module.weight.shape)
