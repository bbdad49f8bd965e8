"""What a network costs, counted: parameters and multiply-adds."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable and frozen parameters (buffers are not counted)."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Return the multiply-accumulates of one forward pass; see :func:`macs_by_module`."""
    return sum(macs_by_module(model, input_shape).values())


def macs_by_module(model: nn.Module, input_shape: tuple[int, ...]) -> dict[str, int]:
    """Return the multiply-accumulates of one forward pass of an eager float32 model, by the module that makes them.

    Convolutions and matrix products are counted (torch's FLOP counter, two FLOPs a MAC), those of recurrent layers and
    of attention too; activations, pooling and resizing are not. A module that is called several times counts each time.

    Args:
        model: on any device; its training mode is left as it was.
        input_shape: (N, 3, H, W).

    Returns:
        Module name ("": the model itself) → what it computes outside its submodules; modules without any are left out.
    """
    from torch.utils.flop_counter import FlopCounterMode

    from udacisense.measure.metrics import inference

    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    images = torch.zeros(input_shape, device=device)
    with inference(model), _seen_in_parts(model), FlopCounterMode(display=False) as counter:
        model(images)
    root = type(model).__name__
    counts = {name: sum(found.values()) // 2 for name, found in counter.get_flop_counts().items()}
    totals = {name.removeprefix(root).removeprefix("."): n for name, n in counts.items() if name != "Global"}
    own = dict(totals)
    for name, total in totals.items():
        above = [other for other in totals if name != other and (not other or name.startswith(f"{other}."))]
        if above:
            own[max(above, key=len)] -= total
    return {name: macs for name, macs in own.items() if macs > 0}


@contextmanager
def _seen_in_parts(model: nn.Module) -> Iterator[None]:
    """Let recurrent layers and attention run as the products that they are made of: torch counts no fused operator."""
    is_recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH), ExitStack() as stack:
            warnings.simplefilter("ignore")  # oneDNN's switch announces another of its own
            if is_recurrent:
                stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
