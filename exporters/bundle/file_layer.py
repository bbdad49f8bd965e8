"""A layer as an exported file holds it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class FileLayer:
    """A convolution or a linear layer with constant weights."""

    name: str
    weights: NDArray[np.float64]  # (out channels, everything else), in PyTorch's order, dequantised
    macs: int  # of one call
    is_int8: bool  # weights, input and output are int8
