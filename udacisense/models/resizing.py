"""Bilinear resizing as two products of matrices: the same numbers, several times faster than the operator.

PyTorch's and onnxruntime's kernels for one image in NCHW compute each output by itself. Bilinear resizing is linear and
separable: with the weights of rows, R (H, h), and of columns, C (w, W), the result is R · X · C.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, fx
from torch.jit import TracerWarning  # type: ignore[attr-defined]
from torch.overrides import TorchFunctionMode

#: Longest edge of a map that is resized by products: their cost grows with it, and the operator's does not.
MOST_SOURCE_PX = 64
_INTERPOLATE = inspect.signature(F.interpolate)


def interpolate(*args: Any, **kwargs: Any) -> Tensor:
    """Resize as ``F.interpolate``: by products where it is bilinear, of a small float32 map, to a given size.

    Other modes, aligned corners, antialiasing, quantised maps and large ones are left to the operator. The answers
    differ by float32's rounding. In a trace the matrices are constants, and so is the size of the map.
    """
    given = _INTERPOLATE.bind(*args, **kwargs)
    given.apply_defaults()
    with _untraced():
        size = _bilinear_size(given.arguments)
        if size is None:
            resized: Tensor = F.interpolate(*args, **kwargs)
            return resized
        maps: Tensor = given.arguments["input"]
        height, width = _edges(maps)
        rows = torch.from_numpy(_weights(height, size[0])).to(maps.device)
        columns = torch.from_numpy(np.ascontiguousarray(_weights(width, size[1]).T)).to(maps.device)
    return torch.matmul(rows, torch.matmul(maps, columns))


class ProductsForBilinear(TorchFunctionMode):
    """Within this context ``F.interpolate`` is :func:`interpolate`: for tracing, so that a trace holds products."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Take the place of ``F.interpolate``, and of nothing else."""
        del types
        return (interpolate if func is F.interpolate else func)(*args, **(kwargs or {}))


def resize_by_products(graph: fx.GraphModule) -> fx.GraphModule:
    """Let a graph call :func:`interpolate` for ``F.interpolate``, in place; return it.

    For quantised networks: where a file computes products and its source the operator, a rounding may become a whole
    step of the first quantiser.
    """
    for node in graph.graph.nodes:
        if node.target is F.interpolate:
            node.target = interpolate
    graph.recompile()
    return graph


def _bilinear_size(given: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the size of a resize (``F.interpolate``'s arguments by name) that products can compute, else None."""
    maps, size = given["input"], given["size"]
    is_plain = given["mode"] == "bilinear" and not given["align_corners"] and not given["antialias"]
    if not is_plain or size is None or maps.dim() != 4 or maps.dtype != torch.float32:
        return None
    if max(_edges(maps)) > MOST_SOURCE_PX:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)


def _edges(maps: Tensor) -> tuple[int, int]:
    return int(maps.shape[2]), int(maps.shape[3])


@contextmanager
def _untraced() -> Iterator[None]:
    """Keep silent about what becomes a constant of the trace: sizes and weights are meant to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TracerWarning)
        yield


@lru_cache(maxsize=32)
def _weights(source_px: int, target_px: int) -> NDArray[np.float32]:
    """Return what each source pixel gives to each target pixel along one axis, (target_px, source_px).

    A target pixel's centre lies at (i + 1/2) · source_px / target_px - 1/2 between two source pixels, or on the first
    where that is negative (``align_corners=False``).
    """
    place = np.arange(target_px, dtype=np.float32) + np.float32(0.5)
    place = np.maximum(place * np.float32(source_px / target_px) - np.float32(0.5), 0)
    first = np.minimum(place.astype(np.int64), source_px - 1)
    second = np.minimum(first + 1, source_px - 1)
    share = place - first.astype(np.float32)
    weights = np.zeros((target_px, source_px), np.float32)
    np.add.at(weights, (np.arange(target_px), first), 1 - share)
    np.add.at(weights, (np.arange(target_px), second), share)
    return weights
