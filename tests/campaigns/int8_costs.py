"""Count what operations of static int8 take on ARM, signed and unsigned: the costs of udacisense/stages/int8/costs.py.

Run it from the repository's root, where the runtime counts that ``udacisense runtime add android-arm64`` sets up::

    python tests/campaigns/int8_costs.py

Each row is a network of one operation, repeated once and four times; the difference is the operation's.
A row takes some 10 s.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.ao.nn.quantized import Conv2d

from harness.runtime.count import count
from udacisense.stages.quantize import quantized_engine
from udacisense.stages.static import SIGNED_BY

SCALE = 0.05
ZERO_POINTS = {torch.quint8: 128, torch.qint8: 0}
OPS: Any = torch.ops.quantized
Operation = Callable[[Tensor], Tensor]
SHAPES = ((1, 16, 32, 32), (1, 240, 8, 8), (1, 96, 4, 4))


class Repeated(nn.Module):
    """float32 (1, C, H, W) → quantised → operations, some times → float32 (1, 1)."""

    def __init__(self, operations: tuple[Operation, ...], dtype: torch.dtype, times: int) -> None:
        super().__init__()
        self.modules_of = nn.ModuleList([one for one in operations if isinstance(one, nn.Module)])
        self.operations, self.dtype, self.times = operations, dtype, times

    def forward(self, images: Tensor) -> Tensor:
        channels_last = images.contiguous(memory_format=torch.channels_last)
        maps = torch.quantize_per_tensor(channels_last, SCALE, ZERO_POINTS[self.dtype], self.dtype)
        for operation in self.operations * self.times:
            maps = operation(maps)
        return maps.dequantize().mean((1, 2, 3))[:, None]


def convolution(inputs: int, outputs: int, kernel: int = 1, groups: int = 1) -> Conv2d:
    made = Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups)
    weight = torch.randn(outputs, inputs // groups, kernel, kernel) / 10
    scales, zeros = torch.full((outputs,), 0.005, dtype=torch.double), torch.zeros(outputs, dtype=torch.long)
    made.set_weight_bias(torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8), torch.zeros(outputs))
    made.scale = SCALE
    return made


def quantised(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.quantize_per_tensor(numbers, SCALE, ZERO_POINTS[dtype], dtype)


def turned(maps: Tensor) -> Tensor:
    other = torch.qint8 if maps.dtype == torch.quint8 else torch.quint8
    return quantised(quantised(maps.dequantize(), other).dequantize(), maps.dtype)


def gated(maps: Tensor) -> Tensor:
    return OPS.mul(F.adaptive_avg_pool2d(maps, 1), maps, SCALE, maps.q_zero_point())


def gated_by_maps(maps: Tensor) -> Tensor:
    gate = F.adaptive_avg_pool2d(maps, 1).expand_as(maps).contiguous(memory_format=torch.channels_last)
    return OPS.mul(gate, maps, SCALE, maps.q_zero_point())


ELEMENTWISE: dict[str, Operation] = {
    "a turn and back": turned,
    "sum": lambda maps: OPS.add(maps, maps, SCALE, maps.q_zero_point()),
    "product": lambda maps: OPS.mul(maps, maps, SCALE, maps.q_zero_point()),
    "Hardswish": lambda maps: OPS.hardswish(maps, SCALE, maps.q_zero_point()),
    "Hardswish in float32": lambda maps: quantised(F.hardswish(maps.dequantize()), maps.dtype),
    "sigmoid": torch.sigmoid,
    "sigmoid in float32": lambda maps: quantised(torch.sigmoid(maps.dequantize()), maps.dtype),
    "ReLU6": F.relu6,
    "max pool 3×3": lambda maps: F.max_pool2d(maps, 3, 1, 1),
    "average pool 3×3": lambda maps: F.avg_pool2d(maps, 3, 1, 1),
    "global pool and gate": gated,
    "global pool and gate written out": gated_by_maps,
}


def take(name: str, shape: tuple[int, ...], make: Callable[[], tuple[Operation, ...]], macs: int = 0) -> None:
    """Print the instructions of an operation, unsigned and signed, an element that goes in and a multiply-add."""
    image = torch.rand(shape) * 6 - 3
    for dtype, zero_point in ZERO_POINTS.items():
        operations = make()
        for one in operations:
            if isinstance(one, Conv2d):
                one.zero_point = zero_point
        counted = []
        for times in (1, 4):
            network = torch.jit.freeze(torch.jit.trace(Repeated(operations, dtype, times).eval(), image))
            with tempfile.TemporaryDirectory() as scratch:
                path = Path(scratch) / "model.ptl"
                network._save_for_lite_interpreter(str(path))
                counted.append(count(path, image.numpy()).instructions_per_call)
        one = (counted[1] - counted[0]) / 3
        each = f"{one / macs:.2f} a multiply-add" if macs else f"{one / image.numel():.2f} an element"
        sys.stdout.write(f"{name:34} {shape!s:18} {str(dtype)[6:]:8} {one / 1e3:9.1f} k  {each}\n")
        sys.stdout.flush()


def main() -> None:
    torch.manual_seed(0)
    with quantized_engine(SIGNED_BY):
        for inputs, outputs, px in ((16, 72, 32), (96, 576, 4), (240, 64, 1)):
            pair = 2 * inputs * outputs * px * px
            both = ((inputs, outputs), (outputs, inputs))
            take(
                f"1×1, {inputs} to {outputs} and back",
                (1, inputs, px, px),
                lambda both=both: tuple(convolution(*sizes) for sizes in both),
                pair,
            )
        for channels, px, kernel in ((72, 32, 3), (240, 8, 5)):
            take(
                f"depthwise {kernel}×{kernel}",
                (1, channels, px, px),
                lambda channels=channels, kernel=kernel: (convolution(channels, channels, kernel, channels),),
                channels * px * px * kernel * kernel,
            )
        for name, operation in ELEMENTWISE.items():
            for shape in SHAPES:
                take(name, shape, lambda operation=operation: (operation,))


if __name__ == "__main__":
    main()
