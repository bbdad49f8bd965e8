"""What the layers of an ONNX file cost, and how much of it is int8."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from exporters.bundle.manifest import Coverage
from exporters.bundle.qdq import LAYERS
from exporters.formats.coverage import layers
from exporters.formats.onnx.graph import RESIZING, is_copy, load_graph
from exporters.formats.workbench import Workbench
from udacisense.measure.counts import count_parameters

if TYPE_CHECKING:
    import onnx


def coverage_of_graph(quantized: Path, prepared: Path, bench: Workbench, *, batch: int | None) -> Coverage:
    """Count the layers of a float32 graph whose weights are int8 in the quantised one.

    Args:
        quantized: file that onnxruntime's quantiser made.
        prepared: what it was given.
        bench: with the float32 model.
        batch: that both files are bound to; None: any.
    """
    int8 = {w.name for w in load_graph(quantized).initializer}
    costs = bench.once("onnx costs", lambda: _layer_costs(prepared, batch or 1))
    found = layers(bench.model, bench.golden_inputs[:1])
    parameters, macs = count_parameters(bench.model), sum(layer.macs for layer in found)
    chosen = [cost for name, cost in costs.items() if f"{name}_quantized" in int8]
    return Coverage(
        modules_int8=len(chosen),
        modules_total=max(len(found), len(costs)),  # attention is one of ours, and several of the file's
        parameters_int8_fraction=sum(weights for weights, _ in chosen) / parameters if parameters else 0.0,
        macs_int8_fraction=sum(macs for _, macs in chosen) / macs if macs else 0.0,
    )


def _of_batch(path: Path, batch: int) -> onnx.GraphProto:
    """Return a file's graph with every shape that follows from a batch size."""
    import onnx

    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(model, data_prop=True).graph


def _maps(graph: onnx.GraphProto, *, unknown: int) -> dict[str, list[int]]:
    return {
        value.name: [d.dim_value or unknown for d in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.input, *graph.output)
    }


def _layer_costs(path: Path, batch: int) -> dict[str, tuple[int, int]]:
    """Return weight name → (weights, multiply-accumulates of one image) of every layer with constant weights."""
    graph = _of_batch(path, batch)
    shapes = {w.name: tuple(w.dims) for w in graph.initializer}
    # Inference for one batch stops where a shape is computed; there, what the file says of itself counts.
    maps = _maps(load_graph(path), unknown=batch) | {k: v for k, v in _maps(graph, unknown=0).items() if all(v)}
    costs: dict[str, tuple[int, int]] = {}
    for node in graph.node:
        if node.name.startswith(RESIZING) or node.op_type not in LAYERS:
            continue
        # A convolution's output needs (in / groups) × kernel each, and so much of a transposed one's needs its
        # input; a matrix product's output needs its inner size.
        counted = node.input[0] if node.op_type == "ConvTranspose" else node.output[0]
        if node.input[1] not in shapes or counted not in maps:
            continue
        weight, shape = shapes[node.input[1]], maps[counted]
        inner = math.prod(weight[1:]) if node.op_type.startswith("Conv") else math.prod(weight) // shape[-1]
        weights = 0 if is_copy(node.input[1]) else math.prod(weight)
        costs[node.input[1]] = (weights, math.prod(shape) * inner // batch)
    return costs
