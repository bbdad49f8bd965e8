"""What is changed in an ONNX graph before it is written or quantised, and what in it is no weight."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from exporters.bundle.qdq import LAYERS

if TYPE_CHECKING:
    import onnx

#: How the names of products begin that resize (:mod:`udacisense.models.resizing`).
RESIZING = "resize_by_product"
_COPY = "..copy"  # in the name of a constant that was given to one more reader; no parameter has two dots in a row


def serialized(model: onnx.ModelProto) -> bytes:
    """Return a model's bytes, the same each time."""
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def load_graph(path: Path) -> onnx.GraphProto:
    """Return the graph of a file."""
    import onnx

    return onnx.load(path).graph


def resizing_products(graph: onnx.GraphProto) -> list[str]:
    """Return the names of the products that resize, which no precision touches."""
    return [node.name for node in graph.node if node.name.startswith(RESIZING)]


def transposed_in_groups(graph: onnx.GraphProto) -> list[str]:
    """Return the names of transposed convolutions of groups, whose channels onnxruntime's quantiser miscounts."""
    return [
        node.name
        for node in graph.node
        if node.op_type == "ConvTranspose" and any(a.name == "group" and a.i > 1 for a in node.attribute)
    ]


def tidied(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model as PyTorch traced it, changed in place: without idle nodes, the products that resize named."""
    _remove_idle(model)
    constants = {output for node in model.graph.node if node.op_type == "Constant" for output in node.output}
    for node in model.graph.node:
        # Their matrix is a constant of the graph, and no weight.
        if node.op_type == "MatMul" and constants & set(node.input):
            node.name = f"{RESIZING}{node.name}"
    return model


def _remove_idle(model: onnx.ModelProto) -> None:
    """Remove each Identity, and each Cast to the type that is there already, but for those that make an output.

    PyTorch gives weights that are equal one constant and an Identity for each further reader; whoever looks for the
    weights of a layer finds none. A Cast to the same type becomes one of float16 to itself, at which onnxruntime fails.
    """
    import onnx

    graph = model.graph
    typed = onnx.shape_inference.infer_shapes(model).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*typed.value_info, *typed.input)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    made = {value.name for value in graph.output} | {*_read_inside(graph.node)}
    stands_for: dict[str, str] = {}
    for node in [*graph.node]:
        for place, name in enumerate(node.input):
            node.input[place] = stands_for.get(name, name)
        to = next((a.i for a in node.attribute if a.name == "to"), None)
        is_idle = node.op_type == "Identity" or (node.op_type == "Cast" and types.get(node.input[0]) == to)
        if is_idle and node.output[0] not in made:
            stands_for[node.output[0]] = node.input[0]
            graph.node.remove(node)


def _read_inside(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    """Yield the names that the branches and loops of nodes read."""
    for node in nodes:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                for deeper in inner.node:
                    yield from deeper.input
                yield from (value.name for value in inner.output)
                yield from _read_inside(inner.node)


def unshared(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model, changed in place, in which each layer has constants of its own.

    onnxruntime's quantisers turn and round a layer's weights where they lie: a second layer that reads them, or the
    same one in a next step, gets them turned and rounded twice.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    read: dict[str, int] = {}
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if node.op_type not in LAYERS or name not in constants:
                continue
            read[name] = read.get(name, 0) + 1
            if read[name] > 1:
                copy = model.graph.initializer.add()
                copy.CopyFrom(constants[name])
                copy.name = node.input[place] = f"{name}{_COPY}{read[name]}"
    return model


def is_copy(name: str) -> bool:
    """Tell whether :func:`unshared` gave a constant this name."""
    return _COPY in name
