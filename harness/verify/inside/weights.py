"""The weights inside a file against the reference's: what answers alone cannot show where a precision is coarse.

Rounding and clustering leave noise around a weight, but no bias: the least-squares slope of the reference's weights on
the file's is 1 whatever the number of bits (for k-means it is 1 exactly, as each centre is the mean of its own). A
layer that was scaled by 1 % shows as a slope of 0.99, two exchanged channels as channels that do not correlate.

Of a recipe of static int8 every weight is known, whichever value it was rounded to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from exporters.bundle.pte_file import read_pte
from exporters.bundle.tflite_file import read_tflite
from harness.runners.table import CannotJudgeError
from harness.verify.inside.own_weights import layers_in_order, program_weights

if TYPE_CHECKING:
    from torch import Tensor, nn

Weights = list[tuple[str, NDArray[np.float64]]]  # name, (out channels, everything else)

_SLOPE = 0.003
_ROUNDED = 0.009  # of a weight: XNNPACK and LiteRT have -127 for PyTorch's -128, Core ML's scales are float16
_CORRELATION = 0.5
_SMALL = 0.2  # a channel below this share of the layer's RMS may vanish in a coarse palette


def compare_weights(expected: Weights, got: Weights, *, rounded: bool = False) -> tuple[str, ...]:
    """Say what is wrong, each layer in words.

    Args:
        expected: of the reference, BatchNorm folded, in execution order.
        got: of the file, widened to float, in the same order.
        rounded: whether ``expected`` are rounded as the file's are, so that each weight is the same.

    Raises:
        CannotJudgeError: their counts differ, or the shapes of several, as where a network calls layers in another way
            than as modules.
    """
    if len(expected) != len(got):
        raise CannotJudgeError(f"{len(got)} layers with weights in the file, {len(expected)} in its source")
    other_shapes = [
        name for (name, source), (_, stored) in zip(expected, got, strict=True) if source.shape != stored.shape
    ]
    if len(other_shapes) > 1:
        named = " and ".join(other_shapes[:2])
        raise CannotJudgeError(f"its layers come in another order, or are others: {named} have other shapes")
    problems = []
    for (name, source), (other, stored) in zip(expected, got, strict=True):
        problem = _layer_problem(source, stored, rounded=rounded)
        if problem is not None:
            problems.append(f"the weights of {name} ({other}) are not its source's: {problem}")
    return tuple(problems)


def _layer_problem(source: NDArray[np.float64], stored: NDArray[np.float64], *, rounded: bool) -> str | None:
    if source.shape != stored.shape:
        return f"shape {stored.shape}, not {source.shape}"
    if not np.isfinite(stored).all():
        return "NaN or infinite values"
    others = int((np.abs(stored - source) > _ROUNDED * np.abs(source)).sum()) if rounded else 0
    if rounded and not others:
        return None
    power = float((stored * stored).sum())
    slope = float((source * stored).sum()) / power if power > 0 else 0.0
    if abs(slope - 1) > _SLOPE:
        return f"they are {1 / slope:.4g} times as large" if slope > 0 else "they do not resemble each other"
    norms = np.linalg.norm(source, axis=1), np.linalg.norm(stored, axis=1)
    product = norms[0] * norms[1]
    correlation = np.divide((source * stored).sum(axis=1), product, out=np.ones_like(product), where=product > 0)
    heavy = norms[0] > _SMALL * np.sqrt(np.square(norms[0]).mean())
    strange = np.flatnonzero(heavy & (correlation < _CORRELATION))
    if strange.size:
        return f"channels {', '.join(map(str, strange[:4]))} are others"
    return f"{others} of {source.size} are not rounded as its recipe says" if others else None


def reference_weights(reference: nn.Module, example: Tensor) -> Weights:
    """Return the reference's weights in execution order.

    Args:
        reference: of :func:`harness.verify.inside.own_weights.fused_reference`.
        example: float32 (1, 3, H, W).
    """
    return [
        (name, _rows(module.weight.detach().numpy()))  # type: ignore[operator]
        for name, module in layers_in_order(reference, example)
    ]


def _rows(weight: Any) -> NDArray[np.float64]:
    wide = np.asarray(weight, dtype=np.float64)
    rows: NDArray[np.float64] = wide.reshape(len(wide), -1)
    return rows


def file_weights(format_name: str, path: Path) -> Weights:
    """Return the weights of an ``.onnx``, ``.pte`` or ``.tflite`` file or a Core ML package, widened to float."""
    if format_name == "coreml":
        return mil_weights(path)
    if format_name == "onnx":
        return onnx_weights(path)
    layers = read_tflite(path).layers if format_name == "tflite" else read_pte(path).layers
    return [(layer.name, layer.weights) for layer in layers]


def mil_weights(package: Path) -> Weights:
    """Return the weights of a Core ML package, expanded by coremltools."""
    from harness.runners.mil.program import read_program

    return [(name, _rows(weight)) for name, weight in program_weights(read_program(package))]


def onnx_weights(path: Path) -> Weights:
    """Return the weights of an ``.onnx`` file, dequantised."""
    import onnx
    from onnx import numpy_helper

    from exporters.formats.onnx.graph import RESIZING

    graph = onnx.load(path).graph
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    found: Weights = []
    for node in graph.node:
        reader = None if node.name.startswith(RESIZING) else _ONNX_READERS.get(node.op_type)
        weight = None if reader is None else reader(node, constants, producers)
        if weight is not None:
            found.append((node.name or node.output[0], _rows(weight)))
    return found


_Constants = Mapping[str, NDArray[Any]]


def _float_weight(name: str, constants: _Constants, producers: Mapping[str, Any]) -> NDArray[Any] | None:
    """Return a constant, or what a DequantizeLinear or Cast makes of one."""
    if name in constants:
        return constants[name]
    node = producers.get(name)
    if node is None or node.input[0] not in constants:
        return None
    if node.op_type == "Cast":
        given: NDArray[Any] = constants[node.input[0]]
        return given
    if node.op_type != "DequantizeLinear":
        return None
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    zero = constants[node.input[2]] if len(node.input) > 2 else np.zeros_like(constants[node.input[1]])
    return _dequantised(constants[node.input[0]], constants[node.input[1]], zero, axis)


def _dequantised(values: NDArray[Any], scale: NDArray[Any], zero: NDArray[Any], axis: int) -> NDArray[np.float64]:
    shape = [1] * values.ndim
    if scale.size > 1:
        shape[axis] = -1
    wide = values.astype(np.float64) - zero.astype(np.float64).reshape(shape if zero.size > 1 else [1] * values.ndim)
    result: NDArray[np.float64] = wide * scale.astype(np.float64).reshape(shape)
    return result


def _conv(node: Any, constants: _Constants, producers: Mapping[str, Any]) -> NDArray[Any] | None:
    return _float_weight(node.input[1], constants, producers)


def _gemm(node: Any, constants: _Constants, producers: Mapping[str, Any]) -> NDArray[Any] | None:
    weight = _float_weight(node.input[1], constants, producers)
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    if weight is None or transposed:
        return weight
    turned: NDArray[Any] = weight.T
    return turned


def _matmul_integer(node: Any, constants: _Constants, _: Mapping[str, Any]) -> NDArray[Any] | None:
    name = node.input[1]
    base = name.removesuffix("_quantized")
    if name not in constants or f"{base}_scale" not in constants:
        return None
    scale = constants[f"{base}_scale"]
    zero = constants[node.input[3]] if len(node.input) > 3 else np.zeros_like(scale)
    turned: NDArray[Any] = _dequantised(constants[name], scale, zero, 1).T
    return turned


_ONNX_READERS: dict[str, Callable[[Any, _Constants, Mapping[str, Any]], NDArray[Any] | None]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _gemm,
    "MatMulInteger": _matmul_integer,
}
