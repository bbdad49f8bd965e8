"""Where a network's values leave what float16 holds.

A host without float16 kernels widens a file to float32, call by call, so that its answers look right; on a phone that
computes in float16 every value beyond 65,504 is infinite.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from exporters.bundle.open import Bundle
from harness.inputs import normalized, probe_images

LARGEST = 65504.0
_BATCH = 8
# What they return is memory as it was found: nothing that the network computed.
_UNFILLED = ("empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided")


def beyond_half(model: nn.Module, bundle: Bundle) -> str | None:
    """Say where the values of the golden pack or of a probe leave the range of float16 first; None where nowhere.

    Args:
        model: normalised images, float32 (n, 3, H, W), to logits.
        bundle: whose golden pack is fed.
    """
    signature = bundle.manifest.signature
    probes = normalized(np.stack(list(probe_images(signature.size_px).values())), signature)
    images = torch.from_numpy(np.concatenate([bundle.golden_inputs(), probes]))
    for batch in images.split(_BATCH):  # type: ignore[no-untyped-call]
        found = first_beyond(model, batch)
        if found is not None:
            return (
                f"{found[1]:,.0f} {found[0]} is beyond float16, which ends at {LARGEST:,.0f}: it is infinite where a "
                "phone computes in float16, whatever this host answers"
            )
    return None


def first_beyond(model: nn.Module, images: Tensor) -> tuple[str, float] | None:
    """Return the first value beyond float16 that a network computes, and in or after which of its layers.

    What is made of values beyond it does not count (a mask's constant, which need not be exact), nor does what is
    infinite in float32 too.
    """
    watch = _Watch()

    def reached(where: str) -> Callable[..., None]:
        return lambda *_: setattr(watch, "where", where)

    with ExitStack() as hooks, torch.no_grad(), watch:
        for name, module in model.named_modules():
            if name and not list(module.children()):
                hooks.enter_context(module.register_forward_pre_hook(reached(f"in {name}")))
                hooks.enter_context(module.register_forward_hook(reached(f"after {name}")))
        model(images)
    return watch.found


class _Watch(TorchDispatchMode):
    """Sees what every operation returns."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.where = "before the first layer"
        self.found: tuple[str, float] | None = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        # Looked at before the call, which may change them in place.
        is_within = self.found is None and bool(given) and all(_largest(value) <= LARGEST for value in given)
        made = func(*args, **(kwargs or {}))
        if is_within and func.overloadpacket.__name__ not in _UNFILLED:
            largest = max(map(_largest, tree_leaves(made)), default=0.0)
            if LARGEST < largest < np.inf:
                self.found = f"{self.where} ({func.overloadpacket.__name__})", largest
        return made


def _largest(value: object) -> float:
    """Return the largest magnitude in a tensor of floats; 0 for anything else."""
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.numel() == 0:
        return 0.0
    return float(value.abs().max())
