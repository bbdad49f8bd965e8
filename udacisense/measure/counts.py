"""What a network costs, counted: parameters and multiply-adds."""

from __future__ import annotations

import torch
from torch import nn


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable and frozen parameters (buffers are not counted)."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Return the multiply-accumulates of one forward pass of an eager float32 model.

    Convolutions and matrix products are counted (torch's FLOP counter, two FLOPs a MAC); activations, pooling and
    resizing are not.

    Args:
        model: on any device; its training mode is left as it was.
        input_shape: (N, 3, H, W).
    """
    from torch.utils.flop_counter import FlopCounterMode

    from udacisense.measure.metrics import inference

    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    with inference(model), FlopCounterMode(display=False) as counter:
        model(torch.zeros(input_shape, device=device))
    return int(counter.get_total_flops()) // 2
