"""Zero points in a static int8 ``.onnx`` file that cannot be right, whatever the images.

A shifted zero point clips the largest values by as little as quantisation rounds, so answers do not show it. But what a
Relu leaves is never below 0, and a calibrated range of it starts there: at the smallest integer of its type.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NEVER_NEGATIVE = frozenset({"Relu", "Sigmoid", "HardSigmoid", "Softmax"})
# A quantiser may let a layer take over what its activation gave; that value's name then tells of it, and nothing else.
_TAKEN_OVER = re.compile(rf"/({'|'.join(sorted(_NEVER_NEGATIVE))})_output_\d+$")
_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Add"})
# These give nothing below 0 where they are given nothing below 0.
_KEEPS_SIGN = frozenset(
    {
        *("Flatten", "Reshape", "Squeeze", "Transpose", "DequantizeLinear", "QuantizeLinear"),
        *("AveragePool", "GlobalAveragePool", "MaxPool", "ReduceMean"),
    }
)


def zero_point_problems(path: Path) -> tuple[str, ...]:
    """Return, each in a sentence, the zero points that give integers to values which never occur.

    Args:
        path: an ``.onnx`` file with QuantizeLinear nodes.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(path).graph
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    problems = []
    for node in graph.node:
        if node.op_type != "QuantizeLinear" or len(node.input) < 3 or node.input[2] not in constants:
            continue
        source, zero = _never_negative(node.input[0], producers, constants), constants[node.input[2]]
        if source is not None and int(zero.max()) != np.iinfo(zero.dtype).min:
            problems.append(
                f"the zero point of {node.input[0]} is {int(zero.max())}, not {np.iinfo(zero.dtype).min}: "
                f"integers stand for values below 0, which {source} never leaves, and the largest are clipped"
            )
    return tuple(problems)


def _never_negative(name: str, producers: Mapping[str, Any], constants: Mapping[str, NDArray[Any]]) -> str | None:
    """Return the operator that keeps a value from being negative; None where it may be."""
    node = producers.get(name)
    while node is not None and node.op_type in _KEEPS_SIGN:
        name = node.input[0]
        node = producers.get(name)
    if node is None:
        return None
    taken_over = _TAKEN_OVER.search(name)
    if node.op_type in _LAYERS and taken_over is not None:
        return taken_over[1]
    if node.op_type == "Clip":
        lowest = constants.get(node.input[1]) if len(node.input) > 1 else None
        return "Clip" if lowest is not None and lowest.min() >= 0 else None
    return str(node.op_type) if node.op_type in _NEVER_NEGATIVE else None
