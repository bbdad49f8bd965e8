"""TorchScript on the GPU of a Mac."""

from __future__ import annotations

from functools import partial

import torch

from harness.runners import gpu

load = partial(gpu.load_on, "mps")


def unavailable() -> str | None:
    """Say that this is no Mac with such a GPU."""
    return None if torch.backends.mps.is_available() else "needs a Mac with an Apple GPU"
