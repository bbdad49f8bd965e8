"""A layer as an exported file holds it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class FileLayer:
    """A convolution or a linear layer with constant weights."""

    name: str
    weights: NDArray[np.float64]  # (out channels, everything else), in PyTorch's order, dequantised
    macs: int  # of one call
    is_int8: bool  # weights, input and output are int8


def channels_last_layer(
    name: str, weights: NDArray[np.float64], *, is_depthwise: bool, output_shape: Sequence[int], is_int8: bool
) -> FileLayer:
    """Return a layer of a format that keeps channels last.

    Args:
        name: of the layer.
        weights: dequantised: (out, in) of a linear layer, (out, h, w, in) of a convolution, (1, h, w, out) of a
            depthwise one.
        is_depthwise: whether it is the last.
        output_shape: of one call.
        is_int8: see :class:`FileLayer`.
    """
    if weights.ndim == 4:
        weights = weights.transpose((3, 0, 1, 2) if is_depthwise else (0, 3, 1, 2))
    rows = weights.reshape(len(weights), -1)
    return FileLayer(name=name, weights=rows, macs=rows.shape[1] * math.prod(output_shape), is_int8=is_int8)


def dequantised(stored: NDArray[np.float64], scales: ArrayLike, zeros: ArrayLike, axis: int) -> NDArray[np.float64]:
    """Return the numbers that stored integers stand for; ``scales`` and ``zeros``: one, or one by place on ``axis``."""
    shape = [1] * stored.ndim
    shape[axis] = -1
    wide: NDArray[np.float64] = (stored - np.reshape(zeros, shape)) * np.reshape(np.asarray(scales, np.float64), shape)
    return wide
