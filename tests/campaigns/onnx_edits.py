"""Faults in the graph of an ``.onnx`` file, for the mutation campaign: each changes what it says, or fails."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from exporters.formats.onnx.graph import RESIZING
from udacisense.base.files import METADATA_KEY

_FLOAT, _UINT8, _FLOAT16 = 1, 2, 10
# A quantiser lets a layer take its Relu's place; the name of the value is what is left of it.
_TAKEN_OVER = re.compile(r"/Relu_output_\d+$")


def save_edited(source: Path, target: Path, edit: Callable[[Any], None], *, variant_id: str | None = None) -> None:
    """Write an edited copy; with an id, one that says of itself that it is that variant."""
    import onnx

    model = onnx.load(source)
    before = model.SerializeToString(deterministic=True)
    edit(model)
    assert model.SerializeToString(deterministic=True) != before, f"{edit.__name__} changes nothing in {source.name}"
    for entry in model.metadata_props:
        if entry.key == METADATA_KEY and variant_id is not None:
            entry.value = json.dumps({**json.loads(entry.value), "variant_id": variant_id})
    onnx.save(model, target)


def no_fault(model: Any) -> None:
    """Change what is no part of the network."""
    model.doc_string = "saved again"


def _change(tensor: Any, change: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
    from onnx import numpy_helper

    values = numpy_helper.to_array(tensor).copy()
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(change(values), values.dtype), tensor.name))


def _matrices(model: Any) -> list[Any]:
    """Return the constants of the two products that resize: no weights."""
    graph = model.graph
    tensors = {t.name: t for t in graph.initializer}
    tensors |= {n.output[0]: n.attribute[0].t for n in graph.node if n.op_type == "Constant"}
    casts = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "Cast"}
    products = [n for n in graph.node if n.op_type == "MatMul" and n.name.startswith(RESIZING)]
    given = [name for n in products for name in n.input]
    return [tensors[name] for name in (casts.get(name, name) for name in given) if name in tensors]


def _layers(model: Any) -> list[Any]:
    """Return the constants that may be weights of layers, whatever their type."""
    resizing = {t.name for t in _matrices(model)}
    return [t for t in model.graph.initializer if len(t.dims) in {2, 4} and t.name not in resizing]


def scale(model: Any) -> None:
    """Make the first layer's weights, or where they are int8 their scales, 1 % larger."""
    floats = [t for t in _layers(model) if t.data_type in {_FLOAT, _FLOAT16}]
    scales = [t for t in model.graph.initializer if "weight" in t.name.lower() and t.name.endswith("scale")]
    _change([*floats, *scales][0], lambda v: v * 1.01)


def exchange(model: Any) -> None:
    """Exchange two output channels of a pointwise convolution, which mixes all channels: not of a depthwise one."""
    pointwise = [t for t in _layers(model) if len(t.dims) == 4 and t.dims[0] > 1 and t.dims[1] > 3]
    _change(pointwise[0], lambda v: v[[1, 0, *range(2, len(v))]])


def permute(model: Any) -> None:
    from onnx import TensorProto, helper

    graph = model.graph
    name = graph.output[0].name
    last = next(n for n in graph.node if name in n.output)
    last.output[list(last.output).index(name)] = "in_order"
    order = helper.make_tensor("order", TensorProto.INT64, [10], [1, 0, 2, 3, 4, 5, 6, 7, 8, 9])
    graph.initializer.append(order)
    graph.node.append(helper.make_node("Gather", ["in_order", "order"], [name], axis=1))


def shift(model: Any) -> None:
    """Add to the input what another mean would."""
    from onnx import TensorProto, helper

    graph = model.graph
    name = graph.input[0].name
    for node in graph.node:
        for i, given in enumerate(node.input):
            if given == name:
                node.input[i] = "shifted"
    graph.initializer.append(helper.make_tensor("off", TensorProto.FLOAT, [], [0.09]))
    graph.node.insert(0, helper.make_node("Add", [name, "off"], ["shifted"]))


def resize(model: Any) -> None:
    """Resize as with aligned corners: the matrices of both products are others."""
    found = _matrices(model)
    assert len(found) == 2, f"{len(found)} matrices resize, not two"
    for tensor in found:
        _change(tensor, _aligned)


def _aligned(matrix: NDArray[Any]) -> NDArray[Any]:
    few, many = sorted(matrix.shape)
    lines = torch.eye(few).view(1, few, few, 1)
    made = F.interpolate(lines, size=(many, 1), mode="bilinear", align_corners=True).view(few, many).numpy()
    return made if matrix.shape == made.shape else made.T


def activate(model: Any) -> None:
    """Put Softplus in the place of a Relu: the last but one that a layer took over, or else that stands by itself."""
    from onnx import helper

    graph = model.graph
    layers = [n for n in graph.node if n.op_type == "Conv" and _TAKEN_OVER.search(n.output[0])]
    if len(layers) < 2:
        [n for n in graph.node if n.op_type == "Relu"][-2].op_type = "Softplus"
        return
    layer = layers[-2]
    name = layer.output[0]
    layer.output[0] = f"{name}_before"
    at = list(graph.node).index(layer)
    graph.node.insert(at + 1, helper.make_node("Softplus", [f"{name}_before"], [name]))


def shift_zero_point(model: Any) -> None:
    points = [t for t in model.graph.initializer if not t.dims and t.data_type == _UINT8]
    _change(points[len(points) // 2], lambda v: v + 90)


FAULTS: dict[str, Callable[[Any], None]] = {
    "weights ×1.01": scale,
    "two channels exchanged": exchange,
    "labels permuted": permute,
    "mean and std changed": shift,
    "wrong resize mode": resize,
    "wrong activation": activate,
}
# A static int8 file has more that may be wrong.
STATIC_FAULTS = FAULTS | {"zero point shifted": shift_zero_point}
