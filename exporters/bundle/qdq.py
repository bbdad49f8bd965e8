"""A network that rounds (:func:`udacisense.stages.recipe.rounding_network`) in the two forms that other tools read.

As ONNX, weights become int8, biases int32, and what says how becomes an initializer. As a PT2E program, each rounding
becomes a pair of ``quantize`` and ``dequantize``.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

if TYPE_CHECKING:
    import onnx

NOTE = "; at the scales of its recipe, and weights of -127 to 127 (PyTorch's -128 is -127 here)"
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_Constants = dict[str, NDArray[Any]]


def in_steps(network: torch.nn.Module, example: torch.Tensor, *, packed: bool) -> fx.GraphModule:
    """Return a network that rounds as a PT2E program: int8 from -128 to 127, weights from -127 on.

    Each reader of a rounded value has a ``dequantize`` of its own, by which converters know what computes in int8.
    PyTorch's activations of 0 to 255 move by 128; a weight of -128 becomes -127, which lies as near to what it stands
    for (its scale is the largest value over 127.5).

    Args:
        network: of ``rounding_network``, or a module around it.
        example: what it takes, of the batch size that the program is for.
        packed: the program holds its weights as int8; else as float32, each behind a ``quantize``.
    """
    import torch.ao.quantization.fx._decomposed  # names the operators

    program = cast("fx.GraphModule", torch.export.export(network, (example,), strict=True).module())
    steps, rounding = torch.ops.quantized_decomposed, torch.ops.aten
    for node in [*program.graph.nodes]:
        numbers: tuple[Any, ...]
        if node.target is rounding.fake_quantize_per_tensor_affine.default:
            values, scale, zero, low, high = node.args
            shift = low + 128
            numbers = (scale, zero - shift, -128, high - shift, torch.int8)
            pair = steps.quantize_per_tensor.default, steps.dequantize_per_tensor.default
        elif node.target is rounding.fake_quantize_per_channel_affine.default:
            values, scale, zero, axis, _, high = node.args
            numbers = (scale, zero, axis, -127, high, torch.int8)
            pair = steps.quantize_per_channel.default, steps.dequantize_per_channel.default
        else:
            continue
        with program.graph.inserting_before(node):
            if packed and values.op == "get_attr":
                given = (values, *numbers)
                constants = (attrgetter(str(a.target))(program) if isinstance(a, fx.Node) else a for a in given)
                program.register_buffer(node.name, pair[0](*constants))
                stored = program.graph.get_attr(node.name)
            else:
                stored = program.graph.call_function(pair[0], (values, *numbers))
        stored.meta = dict(node.meta)
        for reader in [*node.users]:
            with program.graph.inserting_before(reader):
                read = program.graph.call_function(pair[1], (stored, *numbers))
            read.meta = dict(node.meta)
            reader.replace_input_with(node, read)
        program.graph.erase_node(node)
    program.recompile()
    return program


def pack(model: onnx.ModelProto) -> onnx.ModelProto:
    """Store rounded weights as int8, and the biases of their layers as int32 at the scale of their sums, in place.

    Args:
        model: with float32 weights behind QuantizeLinear and DequantizeLinear, as a trace of
            :func:`udacisense.stages.recipe.rounding_network` has them.
    """
    graph = model.graph
    constants = _constants(graph)
    producers = {name: node for node in graph.node for name in node.output}
    nodes: list[onnx.NodeProto] = []
    made: _Constants = {}
    for node in graph.node:
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            made |= {name: constants[name] for name in node.input[1:]}
        if node.op_type == "QuantizeLinear" and node.input[0] in constants:
            made[node.output[0]] = _int8(constants[node.input[0]], constants[node.input[1]])
            continue
        if node.op_type in LAYERS and len(node.input) > 2 and node.input[2] in constants:
            given, weight = (_scale(producers.get(name), constants) for name in node.input[:2])
            if given is not None and weight is not None:
                nodes.append(_bias(node, constants[node.input[2]], given * weight, made))
        nodes.append(node)
    _store(graph, nodes, made)
    return model


def _scale(node: onnx.NodeProto | None, constants: _Constants) -> NDArray[Any] | None:
    """Return the scale of what a node widens; None where it widens nothing."""
    return constants[node.input[1]] if node is not None and node.op_type == "DequantizeLinear" else None


def _int8(weight: NDArray[Any], scale: NDArray[Any]) -> NDArray[np.int8]:
    """Return a weight (out, …) in steps of its channels' scales."""
    steps = np.rint(weight / scale.reshape(-1, *(1,) * (weight.ndim - 1)))
    packed: NDArray[np.int8] = steps.clip(-128, 127).astype(np.int8)
    return packed


def _bias(layer: onnx.NodeProto, bias: NDArray[Any], scale: NDArray[Any], made: _Constants) -> onnx.NodeProto:
    """Return the node that widens a layer's bias, whose numbers join ``made``; the layer now reads from it."""
    from onnx import helper

    name, scale = layer.input[2], np.broadcast_to(scale, bias.shape).astype(np.float32)
    parts = {f"{name}_int32": np.rint(bias / scale).astype(np.int32), f"{name}_scale": scale}
    made |= parts | {f"{name}_zero": np.zeros(bias.shape, np.int32)}
    layer.input[2] = f"{name}_rounded"
    return helper.make_node("DequantizeLinear", [*parts, f"{name}_zero"], [layer.input[2]], layer.input[2], axis=0)


def _constants(graph: onnx.GraphProto) -> _Constants:
    """Return every constant by name: initializers, constant nodes, and what passes either on."""
    from onnx import numpy_helper

    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        elif node.op_type == "Identity" and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
    return found


def _store(graph: onnx.GraphProto, nodes: list[onnx.NodeProto], made: _Constants) -> None:
    """Give the graph its nodes, and of its constants those that are read, each once."""
    from onnx import numpy_helper

    read = {name for node in nodes for name in node.input} | {output.name for output in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in read and tensor.name not in made]
    stored = [numpy_helper.from_array(np.array(value), name) for name, value in made.items() if name in read]
    chosen = [node for node in nodes if node.output[0] in read and node.output[0] not in made]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(chosen)
    graph.initializer.extend([*kept, *stored])
