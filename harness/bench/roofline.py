"""The roofline (Williams, Waterman and Patterson 2009): the least time that this host could need for a model.

A model's work is its floating point operations and the bytes it moves; a host's ceilings are what it reaches at best
in a matrix product and in a copy, measured here at each thread count. The limit is the larger of the two quotients.
Models of this size stay in the cache from layer to layer and from call to call, so the limit is held against a copy
within the cache; the copy in main memory is measured beside it, for what a cold call costs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from harness.records import BenchedBundle, Ceiling
from udacisense.base.child import RESULT, run_child
from udacisense.base.records import read_json, write_record
from udacisense.errors import InferenceError

if TYPE_CHECKING:
    from torch import nn

_FLOAT_BYTES = 4
_GEMM_SIZE = 768
_CACHE_BYTES = 1 << 18  # source and target together fit a core's own cache on phones too
_MEMORY_BYTES = 1 << 28  # far beyond any cache
_REPEATS_S = 0.4
_TIMEOUT_S = 120


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one image costs in float32."""

    flops: int  # a multiply-add is two
    moved_bytes: int


def count_work(model: nn.Module, input_shape: tuple[int, int, int, int]) -> Work:
    """Count one image's operations and bytes.

    Operations are torch's own count of convolutions and matrix products. Bytes are the weights once, and what each
    convolution and linear layer reads and writes; the layers between them can be fused into them.

    Args:
        model: eager, float32, in evaluation mode.
        input_shape: (1, 3, H, W).
    """
    import torch
    from torch import nn

    from udacisense.measure.counts import count_macs

    moved = 0

    def add(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal moved
        weights = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        moved += _FLOAT_BYTES * (weights + sum(i.numel() for i in inputs) + output.numel())

    layers = [m for m in model.modules() if isinstance(m, nn.modules.conv._ConvNd | nn.Linear)]
    with ExitStack() as hooks, torch.inference_mode():
        for layer in layers:
            hooks.enter_context(layer.register_forward_hook(add))
        model(torch.zeros(input_shape))
    return Work(flops=2 * count_macs(model, input_shape), moved_bytes=moved)


def limit_ms(bundle: BenchedBundle, ceiling: Ceiling, *, batch_size: int) -> float:
    """Return the least time (ms) of one call on ``batch_size`` images in float32."""
    compute_s = bundle.flops * batch_size / ceiling.gemm_flops_per_s
    memory_s = bundle.moved_bytes * batch_size / ceiling.cache_bytes_per_s
    return max(compute_s, memory_s) * 1e3


def measure_ceilings(threads: Sequence[int]) -> tuple[Ceiling, ...]:
    """Measure this host's ceilings at each thread count, each in a process of its own.

    Raises:
        InferenceError: the measuring process failed.
    """
    return tuple(_measure_apart(count) for count in threads)


def _measure_apart(threads: int) -> Ceiling:
    with tempfile.TemporaryDirectory(prefix="udacisense-roofline-") as name:
        folder = Path(name)
        failure = run_child(__name__, folder, str(threads), timeout_s=_TIMEOUT_S, threads=threads, shares_cores=False)
        if failure is not None:
            raise InferenceError(f"Measuring this host's ceilings at {threads} threads failed: {failure}.")
        return read_json(Ceiling, folder / RESULT)


def main(folder: Path, threads: str) -> None:
    """Measure the ceilings in this process and leave them in ``folder``."""
    write_record(folder / RESULT, _measure_here(int(threads)))


def _measure_here(threads: int) -> Ceiling:
    """Take the best of several repeats: a ceiling is what the host can do, not what it does on average."""
    import torch

    torch.set_num_threads(threads)
    a, b, c = (torch.rand(_GEMM_SIZE, _GEMM_SIZE) for _ in range(3))
    gemm_s = _best_s(lambda: torch.mm(a, b, out=c))
    return Ceiling(
        threads=threads,
        gemm_flops_per_s=2 * _GEMM_SIZE**3 / gemm_s,
        cache_bytes_per_s=_copy_bytes_per_s(_CACHE_BYTES),
        memory_bytes_per_s=_copy_bytes_per_s(_MEMORY_BYTES),
    )


def _copy_bytes_per_s(size_bytes: int) -> float:
    import torch

    source = torch.zeros(size_bytes // _FLOAT_BYTES)
    target = torch.ones_like(source)
    return 2 * size_bytes / _best_s(lambda: target.copy_(source))


def _best_s(call: Any) -> float:
    call()
    best, end = float("inf"), perf_counter() + _REPEATS_S
    while perf_counter() < end:
        start = perf_counter()
        call()
        best = min(best, perf_counter() - start)
    return best
