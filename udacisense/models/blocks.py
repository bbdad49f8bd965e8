"""Networks written as one line of blocks, small enough for a search or a person to try many."""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import Tensor, nn

from udacisense.models.layers import ConvClassifier, conv_bn_relu, init_convolutions, init_linear

_BLOCK = re.compile(r"(?P<kind>[cpdi])(?P<channels>\d+)(?P<options>(?:[ksx]\d+)*)(?:\*(?P<times>\d+))?")
_DEFAULTS = {"k": 3, "s": 1, "x": 4}
_ALLOWED = {"c": "ks", "p": "", "d": "ks", "i": "ksx"}
_MOST_CHANNELS, _MOST_BLOCKS = 4096, 200


@dataclass(frozen=True, kw_only=True)
class Block:
    """One block of a network."""

    kind: str  # c: convolution, p: pointwise convolution, d: depthwise-separable, i: inverted residual
    channels: int  # that it answers with
    kernel: int = 3
    stride: int = 1
    expansion: int = 4  # of an inverted residual: its depthwise convolution has so many times the channels that come in


def parse_blocks(text: str) -> list[Block]:
    """Read a line of blocks, such as ``c16 i20x4s2 i20x4k5*2 p64``.

    A block is a letter, its output channels, and where they differ from 3, 1 and 4 its kernel ``k``, stride ``s``
    and expansion ``x``; ``*2`` repeats it, with the stride in the first one alone. The letters: ``c`` convolution,
    ``p`` pointwise convolution, ``d`` depthwise-separable block, ``i`` inverted residual.

    Raises:
        ValueError: a block cannot be read, or a number is out of range.
    """
    blocks: list[Block] = []
    for word in text.split():
        found = _BLOCK.fullmatch(word)
        pairs = re.findall(r"([ksx])(\d+)", found["options"]) if found else []
        if found is None or any(name not in _ALLOWED[found["kind"]] for name, _ in pairs):
            raise ValueError(
                f"the block {word!r} cannot be read; write c16, d32s2, p64 or i24x4k5s2*3: a letter, the channels, and "
                "for c, d and i kernel k and stride s, for i the expansion x"
            )
        numbers = {**_DEFAULTS, **{name: int(number) for name, number in pairs}}
        times, channels = int(found["times"] or 1), int(found["channels"])
        _check_numbers(word, channels, numbers, times)
        for index in range(times):
            stride = numbers["s"] if index == 0 else 1
            blocks.append(
                Block(kind=found["kind"], channels=channels, kernel=numbers["k"], stride=stride, expansion=numbers["x"])
            )
    if not 1 <= len(blocks) <= _MOST_BLOCKS:
        raise ValueError(f"the network has {len(blocks)} blocks; allowed are 1 to {_MOST_BLOCKS}")
    return blocks


def _check_numbers(word: str, channels: int, numbers: dict[str, int], times: int) -> None:
    allowed = {
        "channels": (1 <= channels <= _MOST_CHANNELS, f"1 to {_MOST_CHANNELS}"),
        "kernel k": (numbers["k"] in (1, 3, 5, 7), "1, 3, 5 or 7"),
        "stride s": (numbers["s"] in (1, 2, 4), "1, 2 or 4"),
        "expansion x": (1 <= numbers["x"] <= 16, "1 to 16"),
        "repetitions *": (1 <= times <= _MOST_BLOCKS, f"1 to {_MOST_BLOCKS}"),
    }
    for name, (is_good, words) in allowed.items():
        if not is_good:
            raise ValueError(f"the {name} of the block {word!r} is out of range; allowed is {words}")


class Residual(nn.Module):
    """A block whose answer is added to what came in."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, maps: Tensor) -> Tensor:
        """Return float32 (N, C, h, w), as ``maps``."""
        added: Tensor = maps + self.block(maps)
        return added


def build_blocks(
    *,
    blocks: str,
    num_classes: int = 10,
    resolution_px: int = 32,
    size_px: int = 32,
    dropout: float = 0.0,
) -> nn.Module:
    """A network of the blocks of :func:`parse_blocks`, global average pool, Dropout, Linear.

    Every convolution is followed by BatchNorm, and by ReLU but for the last one of an inverted residual (Sandler et al.
    2018, "MobileNetV2", section 3), so that each fuses into one int8 operation. A depthwise-separable block or an
    inverted residual that keeps channels and size adds its input. Images of another edge than ``resolution_px`` are
    resized to it.

    Raises:
        ValueError: the blocks cannot be read.
    """
    channels, layers = 3, list[nn.Module]()
    for block in parse_blocks(blocks):
        layers.append(_layer(block, channels))
        channels = block.channels
    features = nn.Sequential(*layers)
    init_convolutions(features)
    classifier = nn.Sequential(nn.Dropout(p=dropout), nn.Linear(channels, num_classes))
    init_linear(classifier)
    return ConvClassifier(features, classifier, resolution_px=resolution_px, size_px=size_px)


def _layer(block: Block, inputs: int) -> nn.Module:
    kernel, stride, outputs = block.kernel, block.stride, block.channels
    if block.kind in "cp":
        return conv_bn_relu(inputs, outputs, kernel=kernel if block.kind == "c" else 1, stride=stride)
    if block.kind == "d":
        depthwise = conv_bn_relu(inputs, inputs, kernel=kernel, stride=stride, groups=inputs)
        path = nn.Sequential(depthwise, conv_bn_relu(inputs, outputs, kernel=1))
    else:
        wide = inputs * block.expansion
        expand = [conv_bn_relu(inputs, wide, kernel=1)] if block.expansion > 1 else []
        depthwise = conv_bn_relu(wide, wide, kernel=kernel, stride=stride, groups=wide)
        path = nn.Sequential(*expand, depthwise, conv_bn_relu(wide, outputs, kernel=1, relu=False))
    return Residual(path) if inputs == outputs and stride == 1 else path
