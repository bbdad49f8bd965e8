"""TorchScript on an NVIDIA GPU of this host."""

from __future__ import annotations

from functools import partial

import torch

from harness.runners import gpu

load = partial(gpu.load_on, "cuda")


def unavailable() -> str | None:
    """Say that PyTorch finds no such GPU."""
    return None if torch.cuda.is_available() else "this host has no CUDA device that PyTorch can use"
