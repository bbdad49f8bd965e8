"""ONNX ``.onnx`` in four precisions, and each optimised offline as ``.ort`` for onnxruntime-mobile."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from exporters.bundle.manifest import Coverage, Precision
from exporters.bundle.metadata import metadata_text
from exporters.bundle.qdq import LAYERS, pack
from exporters.formats.contract import ExportOptions, NotPossibleError, Plan, Product, make_plan
from exporters.formats.coverage import coverage
from exporters.formats.onnx.costs import coverage_of_graph
from exporters.formats.onnx.graph import (
    load_graph,
    resizing_products,
    serialized,
    tidied,
    transposed_in_groups,
    unshared,
)
from exporters.formats.torchscript import ANY_BATCH
from exporters.formats.workbench import Workbench, versions
from udacisense.base.files import METADATA_KEY
from udacisense.errors import InputError, cause, first_line
from udacisense.models.resizing import ProductsForBilinear

if TYPE_CHECKING:
    import onnx

_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8-dynamic", "int8-static")
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
        target.write_bytes(serialized(model))
    else:
        tagged = bench.scratch / f"{plan.id}.onnx"
        tagged.write_bytes(serialized(model))
        _optimize_offline(tagged, target, plan.precision)
    recipe = bench.recipe(plan.precision)
    return Product(
        input_kind=bench.input_kind,
        output_kind=bench.output_kind,
        batch=batch,
        coverage=_coverage(plan.precision, source, bench),
        precision_note=_note(plan),
        options={"opset": bench.options.opset, **bench.recipe_options(plan, recipe)},
        toolchain=versions("torch", "onnx", "onnxruntime"),
        deterministic=plan.format == "onnx",  # onnxruntime writes parts of .ort files in any order
    )


def _coverage(precision: Precision, written: Path, bench: Workbench) -> Coverage | None:
    if precision not in {"int8-dynamic", "int8-static"}:
        return None
    if bench.recipe(precision) is not None:
        return coverage(bench.model, bench.golden_inputs[:1], bench.rounding()[1])
    prepared = _preprocessed(bench.memo["onnx fp32"], bench)
    return coverage_of_graph(written, prepared, bench, batch=bench.memo[_BATCH])


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
    if (why := _failure(path, bench, bench.memo[_BATCH] or 1)) is not None:
        raise InputError(f"onnxruntime does not run the file that its own converter wrote in {precision}: {why}.")
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
    import onnx

    signature = bench.signature
    names = (signature.input_name, signature.output_name)
    axes = {name: {0: "batch"} for name in names} if batch is None else None
    model = bench.deployed(classifier)
    with warnings.catch_warnings(), ProductsForBilinear():
        # The exporter by tracing is called legacy; it is the one that all of our other formats share a graph with.
        warnings.simplefilter("ignore")
        try:
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
        except torch.onnx.errors.OnnxExporterError as exc:
            raise InputError(
                f"ONNX of opset {bench.options.opset} has no operator for what the model computes ({_asked(exc)}); let "
                "its forward compute that from others, or export the other formats alone."
            ) from exc
    path.write_bytes(serialized(tidied(onnx.load(path))))


def _asked(exc: Exception) -> str:
    """Return the operator that an exporter's refusal names, or its first sentence."""
    said = re.split(r"\. | +\[Caused by", first_line(exc))[0].removeprefix("Unsupported: ONNX export of ")
    found = re.search(r"operator '([^']+)'", said)
    return found[1] if found else said.removeprefix("operator ")


def _to_float16(base: Path, path: Path, bench: Workbench) -> None:
    import onnx
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    del bench
    with warnings.catch_warnings():
        # Weights below float16's smallest step become zero; the converter announces each.
        warnings.simplefilter("ignore")
        model = onnx.load(base)
        converted = convert_float_to_float16(model, keep_io_types=True, node_block_list=resizing_products(model.graph))
    # The converter appends its casts at the end, where the specification wants every node after its inputs.
    ordered = ONNXModel(converted)
    ordered.topological_sort()
    path.write_bytes(serialized(ordered.model))


def _to_dynamic_int8(base: Path, path: Path, bench: Workbench) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = load_graph(base)
    resizing = resizing_products(graph)
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


def _to_static_int8(base: Path, path: Path, bench: Workbench) -> None:
    """Write the numbers of the recipe; where there is none, onnxruntime calibrates."""
    import onnx

    if bench.recipe("int8-static") is None:
        _calibrated_by_onnxruntime(base, path, bench)
        return
    network, _ = bench.rounding()
    _trace(path, bench, network, bench.memo[_BATCH])
    path.write_bytes(serialized(pack(onnx.load(path))))


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
    graph = load_graph(prepared)
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
        nodes_to_exclude=[*resizing_products(graph), *transposed_in_groups(graph)],
        extra_options={"CalibMovingAverage": True},
    )


def _preprocessed(base: Path, bench: Workbench) -> Path:
    """Infer shapes and let onnxruntime fold what it can, so that the quantiser sees plain layers."""

    def make() -> Path:
        import onnx
        from onnxruntime.quantization.shape_inference import quant_pre_process

        path = bench.scratch / "preprocessed.onnx"
        try:
            quant_pre_process(str(base), str(path))
        # Its symbolic inference asserts what a graph with computed shapes does not keep; the plain one leaves them out.
        except Exception:
            quant_pre_process(str(base), str(path), skip_symbolic_shape=True)
        path.write_bytes(serialized(unshared(onnx.load(path))))
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
