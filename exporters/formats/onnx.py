"""ONNX ``.onnx`` in four precisions, and each optimised offline as ``.ort`` for onnxruntime-mobile."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from exporters.bundle.manifest import Coverage, Precision
from exporters.bundle.metadata import metadata_text
from exporters.bundle.qdq import LAYERS, pack
from exporters.formats.contract import ExportOptions, NotPossibleError, Plan, Product, make_plan
from exporters.formats.coverage import coverage, layers
from exporters.formats.torchscript import ANY_BATCH
from exporters.formats.workbench import Workbench, versions
from udacisense.base.files import METADATA_KEY
from udacisense.errors import InputError, cause
from udacisense.measure.counts import count_parameters
from udacisense.models.resizing import ProductsForBilinear

if TYPE_CHECKING:
    import onnx

_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8-dynamic", "int8-static")
#: How the names of products begin that resize (:mod:`udacisense.models.resizing`).
RESIZING = "resize_by_product"
_BATCH = "onnx batch"  # what is remembered: the batch that the files are bound to; None: any
# The quantiser lets a layer's output take the place of what these clip, so that both are one int8 operation. Left out,
# each layer's output is quantised, widened, clipped and quantised once more.
_CLIPS = ("Relu", "Clip")

NOTES = {
    "fp32": "none: the float32 weights, BatchNorm folded into the convolutions",
    "fp16": "weights and arithmetic float16 (resizing float32); input and output stay float32",
    "int8-dynamic": "weights of linear layers int8 by channel, activations quantised call by call; "
    "convolutions stay float32",
    "int8-static": "weights of convolutions and linear layers int8 by channel (full 8 bits: exact on ARM and on x86 "
    "with VNNI; older x86 needs the session option session.x64quantprecision=1), their inputs and outputs uint8 at "
    "calibrated scales",
}


def plans(options: ExportOptions) -> tuple[Plan, ...]:
    """Return every precision as ``.onnx``, then as ``.ort``."""
    del options
    return (
        *(make_plan("onnx", precision) for precision in _PRECISIONS),
        *(make_plan("ort", precision) for precision in _PRECISIONS),
    )


def export(plan: Plan, bench: Workbench) -> Product:
    """Write one precision as ``.onnx``, or what onnxruntime makes of it offline as ``.ort``."""
    source = bench.once(f"onnx {plan.precision}", lambda: _write(plan.precision, bench))
    target = bench.folder / plan.file_name
    batch = bench.memo[_BATCH]
    model = _with_metadata(source, metadata_text(bench.metadata(plan, batch=batch)))
    if plan.format == "onnx":
        target.write_bytes(_serialized(model))
    else:
        tagged = bench.scratch / f"{plan.id}.onnx"
        tagged.write_bytes(_serialized(model))
        _optimize_offline(tagged, target, plan.precision)
    recipe = bench.recipe(plan.precision)
    return Product(
        input_kind=bench.input_kind,
        output_kind=bench.output_kind,
        batch=batch,
        coverage=_coverage(plan.precision, bench),
        precision_note=_note(plan),
        options={"opset": bench.options.opset, **bench.recipe_options(plan, recipe)},
        toolchain=versions("torch", "onnx", "onnxruntime"),
        deterministic=plan.format == "onnx",  # onnxruntime writes parts of .ort files in any order
    )


def _note(plan: Plan) -> str:
    if plan.format == "ort" and plan.precision == "fp16":
        return "weights float16, widened to float32 call by call where this host's CPU has no float16 kernels"
    return NOTES[plan.precision]


def _write(precision: Precision, bench: Workbench) -> Path:
    path = bench.scratch / f"{precision}.onnx"
    if precision == "fp32":
        batch = bench.options.batch
        _trace(path, bench, bench.model, batch)
        if batch is None and _failure(path, bench, ANY_BATCH) is not None:
            batch = 1
            _trace(path, bench, bench.model, batch)
        if batch is not None and (why := _failure(path, bench, batch)) is not None:
            raise InputError(f"onnxruntime does not run the file that PyTorch wrote: {why}.")
        bench.memo[_BATCH] = batch
        return path
    base = bench.once("onnx fp32", lambda: _write("fp32", bench))
    {"fp16": _to_float16, "int8-dynamic": _to_dynamic_int8, "int8-static": _to_static_int8}[precision](
        base, path, bench
    )
    return path


def _failure(path: Path, bench: Workbench, batch: int) -> str | None:
    """Return why a file does not answer so many images; a forward may have burnt another number in. None: it does."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    images = bench.example(batch=batch)
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        (answered,) = session.run(None, {bench.signature.input_name: images.numpy()})
    # onnxruntime raises classes of its own on shapes that a constant of the graph does not fit.
    except Exception as exc:
        return cause(exc).rstrip(".")
    return None if len(answered) == batch else f"it answers {len(answered)} images where it is given {batch}"


def _trace(path: Path, bench: Workbench, classifier: nn.Module, batch: int | None) -> None:
    signature = bench.signature
    names = (signature.input_name, signature.output_name)
    axes = {name: {0: "batch"} for name in names} if batch is None else None
    model = bench.deployed(classifier)
    with warnings.catch_warnings(), ProductsForBilinear():
        # The exporter by tracing is called legacy; it is the one that all of our other formats share a graph with.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (bench.example(batch=batch or 1),),
            str(path),
            opset_version=bench.options.opset,
            input_names=[names[0]],
            output_names=[names[1]],
            dynamic_axes=axes,
            dynamo=False,
        )
    _name_resizing(path)


def _name_resizing(path: Path) -> None:
    """Mark the products that resize, by name: their matrix is a constant of the graph, and no weight."""
    import onnx

    model = onnx.load(path)
    constants = {output for node in model.graph.node if node.op_type == "Constant" for output in node.output}
    for node in model.graph.node:
        if node.op_type == "MatMul" and constants & set(node.input):
            node.name = f"{RESIZING}{node.name}"
    path.write_bytes(_serialized(model))


def _to_float16(base: Path, path: Path, bench: Workbench) -> None:
    import onnx
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    del bench
    with warnings.catch_warnings():
        # Weights below float16's smallest step become zero; the converter announces each.
        warnings.simplefilter("ignore")
        model = onnx.load(base)
        converted = convert_float_to_float16(model, keep_io_types=True, node_block_list=_resizing_products(model.graph))
    # The converter appends its casts at the end, where the specification wants every node after its inputs.
    ordered = ONNXModel(converted)
    ordered.topological_sort()
    path.write_bytes(_serialized(ordered.model))


def _to_dynamic_int8(base: Path, path: Path, bench: Workbench) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = _graph(base)
    resizing = _resizing_products(graph)
    if not any(node.op_type in {"Gemm", "MatMul"} and node.name not in resizing for node in graph.node):
        raise NotPossibleError("Dynamic int8 is for linear layers, and this model has none.")
    quantize_dynamic(
        _preprocessed(base, bench),
        path,
        weight_type=QuantType.QInt8,
        per_channel=True,
        op_types_to_quantize=["MatMul"],
        nodes_to_exclude=resizing,
    )


def _resizing_products(graph: onnx.GraphProto) -> list[str]:
    """Return the names of the products that resize, which no precision touches."""
    return [node.name for node in graph.node if node.name.startswith(RESIZING)]


def _to_static_int8(base: Path, path: Path, bench: Workbench) -> None:
    """Write the numbers of the recipe; where there is none, onnxruntime calibrates."""
    import onnx

    if bench.recipe("int8-static") is None:
        _calibrated_by_onnxruntime(base, path, bench)
        return
    network, _ = bench.rounding()
    _trace(path, bench, network, bench.memo[_BATCH])
    path.write_bytes(_serialized(pack(onnx.load(path))))


def _calibrated_by_onnxruntime(base: Path, path: Path, bench: Workbench) -> None:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    name = bench.signature.input_name

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Feeds the calibration images; one at a time where the batch is fixed."""

        def __init__(self) -> None:
            self.batches = bench.calibration_feeds(bench.memo[_BATCH])

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {name: batch.numpy()}

    prepared = _preprocessed(base, bench)
    quantize_static(
        prepared,
        path,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=False,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
        op_types_to_quantize=[*LAYERS, *_CLIPS],
        nodes_to_exclude=_resizing_products(_graph(prepared)),
        extra_options={"CalibMovingAverage": True},
    )


def _preprocessed(base: Path, bench: Workbench) -> Path:
    """Infer shapes and let onnxruntime fold what it can, so that the quantiser sees plain layers."""

    def make() -> Path:
        from onnxruntime.quantization.shape_inference import quant_pre_process

        path = bench.scratch / "preprocessed.onnx"
        try:
            quant_pre_process(str(base), str(path))
        # Its symbolic inference asserts what a graph with computed shapes does not keep; the plain one leaves them out.
        except Exception:
            quant_pre_process(str(base), str(path), skip_symbolic_shape=True)
        return path

    return bench.once("onnx preprocessed", make)


def _optimize_offline(source: Path, target: Path, precision: Precision) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(target)
    levels = onnxruntime.GraphOptimizationLevel
    # Above the basic level float16 weights would be widened to float32 in the file, where the host's CPU has no
    # float16 kernels.
    options.graph_optimization_level = levels.ORT_ENABLE_BASIC if precision == "fp16" else levels.ORT_ENABLE_ALL
    options.add_session_config_entry("session.save_model_format", "ORT")
    # Int8 kernels of ARM take signed activations; without this the graph is rewritten for x86.
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    # The NCHWc layout is that of x86 with this host's vector width.
    onnxruntime.InferenceSession(
        str(source), options, providers=["CPUExecutionProvider"], disabled_optimizers=["NchwcTransformer"]
    )
    if not target.is_file():
        raise InputError("onnxruntime wrote no .ort file.")


def _with_metadata(path: Path, text: str) -> onnx.ModelProto:
    import onnx

    model = onnx.load(path)
    onnx.helper.set_model_props(model, {METADATA_KEY: text})
    model.producer_name = "udacisense"
    return model


def _serialized(model: onnx.ModelProto) -> bytes:
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _graph(path: Path) -> onnx.GraphProto:
    import onnx

    return onnx.load(path).graph


def _coverage(precision: Precision, bench: Workbench) -> Coverage | None:
    """Count the layers of the float32 graph whose weights are int8 in the quantised one."""
    if precision not in {"int8-dynamic", "int8-static"}:
        return None
    if bench.recipe(precision) is not None:
        return coverage(bench.model, bench.golden_inputs[:1], bench.rounding()[1])
    quantized = {w.name for w in _graph(bench.memo[f"onnx {precision}"]).initializer}
    costs = _layer_costs(bench)
    found = layers(bench.model, bench.golden_inputs[:1])
    parameters, macs = count_parameters(bench.model), sum(layer.macs for layer in found)
    chosen = [cost for name, cost in costs.items() if f"{name}_quantized" in quantized]
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


def _layer_costs(bench: Workbench) -> dict[str, tuple[int, int]]:
    """Return weight name → (weights, multiply-accumulates of one image) of every layer with constant weights."""

    def make() -> dict[str, tuple[int, int]]:
        batch = bench.memo[_BATCH] or 1
        path = _preprocessed(bench.memo["onnx fp32"], bench)
        graph = _of_batch(path, batch)
        shapes = {w.name: tuple(w.dims) for w in graph.initializer}
        # Inference for one batch stops where a shape is computed; there, what the file says of itself counts.
        maps = _maps(_graph(path), unknown=batch) | {k: v for k, v in _maps(graph, unknown=0).items() if all(v)}
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
            costs[node.input[1]] = (math.prod(weight), math.prod(shape) * inner // batch)
        return costs

    return bench.once("onnx costs", make)
