"""What goes into and comes out of every convolution and linear layer, in execution order, in any format.

Layers are the landmarks that every format keeps. A difference at a layer's output alone is that layer's; one that is
there at its input already lies between it and the layer before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from harness.runners.table import CannotJudgeError

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Layer:
    """One call of a convolution or a linear layer."""

    name: str  # as the format calls it
    kind: str
    inputs: FloatArray
    outputs: FloatArray


@dataclass(frozen=True)
class Trace:
    """One run: every layer in execution order, and the answer."""

    layers: tuple[Layer, ...]
    answer: FloatArray


def _plain(value: Tensor) -> FloatArray:
    """Copy a value as it is now: what follows may change it in place."""
    wide = value.dequantize() if value.is_quantized else value
    copied: FloatArray = wide.detach().to(torch.float32).numpy().copy()
    return copied


def is_layer(module: nn.Module) -> bool:
    """Tell whether a module is a convolution or a linear layer, float or int8."""
    from torch.ao.nn import quantized as nnq
    from torch.ao.nn.quantized import dynamic as nnqd

    floats = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
    return isinstance(
        module, (*floats, nnq.Conv1d, nnq.Conv2d, nnq.Conv3d, nnq.ConvTranspose2d, nnq.Linear, nnqd.Linear)
    )


def trace_eager(model: nn.Module, images: Tensor) -> Trace:
    """Trace an eager model; a BatchNorm that takes a convolution's output is part of that layer, as in every export."""
    layers: list[Layer] = []
    pending: list[Tensor] = []  # the last layer's output, where nothing has used it yet
    norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    seen: list[FloatArray] = []

    def before(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        seen.append(_plain(given[0]))

    def after(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def finish(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
            layers.append(Layer(name, type(module).__name__, seen.pop(), _plain(output)))
            pending[:] = [output]

        return finish

    def normalised(_: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        if pending and given[0] is pending[0]:
            layers[-1] = dataclasses.replace(layers[-1], outputs=_plain(output))

    with ExitStack() as hooks, torch.no_grad():
        for name, module in model.named_modules():
            if is_layer(module):
                hooks.enter_context(module.register_forward_pre_hook(before))
                hooks.enter_context(module.register_forward_hook(after(name)))
            elif isinstance(module, norms):
                hooks.enter_context(module.register_forward_hook(normalised))
        answer = model(images)
    return Trace(tuple(layers), _plain(answer))


# In-place activations overwrite a layer's output, so each value is cloned where it stands.
_SCRIPT_LAYERS = frozenset(
    f"{space}::{name}"
    for space, names in {
        "aten": ("_convolution", "conv2d", "convolution", "linear", "addmm"),
        "quantized": ("conv2d", "conv2d_relu", "linear", "linear_relu", "linear_dynamic", "linear_relu_dynamic"),
        "prepacked": ("conv2d_clamp_run", "linear_clamp_run"),
    }.items()
    for name in names
)


def trace_script(module: torch.jit.ScriptModule, images: Tensor) -> Trace:
    """Trace a TorchScript module: its graph, copied, with every layer's input and output as further results."""
    torch._C._jit_pass_inline(module.graph)
    graph = module.graph.copy()
    nodes = [node for node in graph.nodes() if node.kind() in _SCRIPT_LAYERS]
    none = graph.create("prim::Constant", [], 1)
    none.output().setType(torch._C.NoneType.get())
    none.insertBefore(next(iter(graph.nodes())))
    for node in nodes:
        given = next(iter(node.inputs()))
        if node.kind() == "aten::addmm":
            given = list(node.inputs())[1]
        before = graph.create("aten::clone", [given, none.output()], 1)
        before.insertBefore(node)
        last = _with_norm(node)
        after = graph.create("aten::clone", [last.output(), none.output()], 1)
        after.insertAfter(last)
        graph.registerOutput(before.output())
        graph.registerOutput(after.output())
    if nodes:
        graph.makeMultiOutputIntoTuple()
    function = torch._C._create_function_from_graph("forward_with_layers", graph)
    with torch.inference_mode():
        values = function(module, images)
    if not nodes:
        return Trace((), _plain(values))
    answer, *pairs = values
    layers = tuple(
        Layer(node.output().debugName(), node.kind(), _plain(pairs[2 * i]), _plain(pairs[2 * i + 1]))
        for i, node in enumerate(nodes)
    )
    return Trace(layers, _plain(answer))


def _with_norm(node: Any) -> Any:
    """Return the BatchNorm that alone takes a layer's output, where a graph has kept it, else the layer."""
    users = [use.user for use in node.output().uses()]
    return users[0] if len(users) == 1 and users[0].kind() == "aten::batch_norm" else node


_MIL_LAYERS = frozenset({"conv", "conv_transpose", "linear", "matmul"})


def trace_mil(package: Path, images: Tensor) -> Trace:
    """Trace a Core ML package through the MIL evaluator."""
    from harness.runners.mil.program import read_program

    program = read_program(package)
    layers: list[Layer] = []

    def visit(name: str, operator: str, arguments: Mapping[str, Any], value: Tensor) -> None:
        if operator in _MIL_LAYERS:
            layers.append(Layer(name, operator, _plain(arguments["x"]), _plain(value)))

    with torch.inference_mode():
        answer = program.evaluate(images, visit)
    return Trace(tuple(layers), _plain(answer))


def one_by_one(trace: Callable[[Tensor], Trace], images: Tensor) -> Trace:
    """Trace an image at a time, as a phone runs, and join: dynamic int8 measures its activations by the batch."""
    runs = [trace(image) for image in images.split(1)]  # type: ignore[no-untyped-call]
    layers = tuple(
        Layer(
            first.name,
            first.kind,
            np.concatenate([run.layers[i].inputs for run in runs]),
            np.concatenate([run.layers[i].outputs for run in runs]),
        )
        for i, first in enumerate(runs[0].layers)
    )
    return Trace(layers, np.concatenate([run.answer for run in runs]))


_ONNX_LAYERS = frozenset(
    {"Conv", "ConvTranspose", "Gemm", "MatMul", "MatMulInteger", "ConvInteger", "QLinearConv", "FusedConv"}
)
# What still belongs to a layer that the exporter wrote as several nodes: bias, and the scale of an integer product.
_ONNX_TAIL = frozenset({"Add", "Cast", "Mul"})


def trace_onnx(path: Path, images: Tensor) -> Trace:
    """Trace an ``.onnx`` file in onnxruntime, without its graph optimisations."""
    import onnx
    import onnxruntime as ort

    from exporters.formats.onnx.graph import RESIZING

    model = onnx.load(path)
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {o for node in graph.node if _is_constant(node, constants) for o in node.output}
    nodes = [
        n
        for n in graph.node
        if n.op_type in _ONNX_LAYERS and n.input[1] in constants and not n.name.startswith(RESIZING)
    ]
    wanted = [(_first_float(graph, node), _last_of(graph, node)) for node in nodes]
    present = {output.name for output in graph.output}
    for name in dict.fromkeys(name for pair in wanted for name in pair):
        if name not in present and name not in {i.name for i in graph.input}:
            graph.output.append(onnx.ValueInfoProto(name=name))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    fed = session.get_inputs()[0].name
    values = dict(zip(names, session.run(None, {fed: images.numpy()}), strict=True)) | {fed: images.numpy()}
    layers = tuple(
        Layer(node.name or node.output[0], node.op_type, _wide(values[a]), _wide(values[b]))
        for node, (a, b) in zip(nodes, wanted, strict=True)
    )
    return Trace(layers, _wide(values[names[0]]))


def _wide(value: Any) -> FloatArray:
    return np.asarray(value, dtype=np.float32)


def _is_constant(node: Any, constants: set[str]) -> bool:
    return node.op_type == "Constant" or (len(node.input) > 0 and all(not i or i in constants for i in node.input))


def _first_float(graph: Any, node: Any) -> str:
    """Follow a layer's input back over its quantisation to the float value."""
    producers, name = {output: one for one in graph.node for output in one.output}, node.input[0]
    while name in producers and producers[name].op_type in {
        "DynamicQuantizeLinear",
        "QuantizeLinear",
        "DequantizeLinear",
    }:
        name = producers[name].input[0]
    return str(name)


def _last_of(graph: Any, node: Any) -> str:
    """Follow a matrix product over the bias and the scale that belong to it."""
    name = node.output[0]
    if node.op_type not in {"MatMul", "MatMulInteger", "ConvInteger"}:
        return str(name)
    while True:
        users = [n for n in graph.node if name in n.input]
        if len(users) != 1 or users[0].op_type not in _ONNX_TAIL:
            return str(name)
        name = users[0].output[0]


def trace_tflite(path: Path, images: Tensor) -> Trace:
    """Trace a ``.tflite`` in LiteRT's own operators: with XNNPACK none of its tensors would be kept."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    from exporters.bundle.tflite_file import LAYERS, read_tflite

    interpreter = Interpreter(
        model_path=str(path),
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    details = {entry["index"]: entry for entry in interpreter.get_tensor_details()}
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], images.permute(0, 2, 3, 1).numpy())
    interpreter.invoke()

    def value(index: int) -> FloatArray:
        scale, zero = details[index]["quantization"]
        stored = interpreter.get_tensor(index).astype(np.float32)
        wide = (stored - zero) * np.float32(scale) if scale else stored
        return np.ascontiguousarray(wide.transpose(0, 3, 1, 2) if wide.ndim == 4 else wide)

    operators = read_tflite(path).operators
    before = {op.Outputs(0): op.Inputs(0) for kind, op in operators if kind == "QUANTIZE"}  # float, as it was
    found = [(kind, before.get(op.Inputs(0), op.Inputs(0)), op.Outputs(0)) for kind, op in operators if kind in LAYERS]
    layers = tuple(Layer(details[out]["name"], kind, value(given), value(out)) for kind, given, out in found)
    return Trace(layers, value(interpreter.get_output_details()[0]["index"]))


def trace_file(format_name: str, path: Path, images: Tensor) -> Trace:
    """Trace an exported file.

    Raises:
        CannotJudgeError: its format shows no layers.
    """
    if format_name in {"torchscript", "ptl"}:
        # A .ptl carries TorchScript code beside its bytecode; the same operators run from both.
        module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
        return trace_script(module, images)
    if format_name == "onnx":
        return trace_onnx(path, images)
    if format_name == "coreml":
        return trace_mil(path, images)
    if format_name == "tflite":
        return trace_tflite(path, images)
    if format_name == "executorch":
        # ExecuTorch's debug buffer holds what goes into a delegate and what comes out (1.5.1).
        raise CannotJudgeError("XNNPACK computes a .pte in one piece and keeps no value between its layers")
    raise CannotJudgeError(f"layers inside {format_name} files cannot be looked at")
