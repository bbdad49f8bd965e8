"""LiteRT ``.tflite`` (TensorFlow Lite's format): float32, float16, int8 weights and static int8.

litert-torch converts, and ai-edge-quantizer works on its float32 file. Images come in as (N, H, W, 3), as all of
Android's loaders for this format give them.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from exporters.bundle.manifest import Precision
from exporters.bundle.qdq import NOTE, in_steps
from exporters.bundle.tflite_file import read_tflite
from exporters.bundle.tflite_metadata import BUFFER_NAME, appended_files, metadata_buffer
from exporters.formats.contract import ExportOptions, Plan, Product, make_plan
from exporters.formats.coverage import coverage_of_file
from exporters.formats.workbench import Workbench, versions

if TYPE_CHECKING:
    from torch import Tensor

_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8-weights", "int8-static")
_LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
_SIGNATURE, _INPUT, _WRAPPED = "serving_default", "args_0", "wrapped"  # what litert-torch calls them

_RECIPE_NOTE = f"{NOTE}; what PyTorch rounds twice running is rounded once"

NOTES = {
    "fp32": "none: the float32 weights, BatchNorm folded into the convolutions",
    "fp16": "weights stored as float16 and widened when the file is loaded; arithmetic float32",
    "int8-weights": "weights stored as int8 by channel and widened when the file is loaded; arithmetic float32",
    "int8-static": "weights of convolutions and linear layers int8 by channel, activations int8 at calibrated scales; "
    "input and output stay float32",
}


def plans(options: ExportOptions) -> tuple[Plan, ...]:
    """Return every precision."""
    del options
    return tuple(make_plan("tflite", precision) for precision in _PRECISIONS)


def export(plan: Plan, bench: Workbench) -> Product:
    """Convert, quantise where asked for, describe, and write one precision."""
    # The shapes of a file are planned ahead of time: one batch size a file.
    batch = bench.options.batch or 1
    recipe = bench.recipe(plan.precision)
    if recipe is not None:
        made = _of_recipe(bench, batch)
    else:
        base = bench.once("tflite fp32", lambda: _converted(bench, batch))
        made = base if plan.precision == "fp32" else _quantized(base, plan.precision, bench, batch)
    target = bench.folder / plan.file_name
    metadata = bench.metadata(plan, batch=batch)
    model = _described(made, metadata_buffer(metadata))
    target.write_bytes(model + appended_files(metadata, offset=len(model)))
    return Product(
        input_kind=bench.input_kind,
        output_kind=bench.output_kind,
        batch=batch,
        coverage=coverage_of_file(bench, read_tflite(target).layers) if plan.precision.startswith("int8") else None,
        precision_note=NOTES[plan.precision] + (_RECIPE_NOTE if recipe is not None else ""),
        options={
            "input_layout": "NHWC",
            **bench.recipe_options(plan, recipe),
        },
        toolchain=versions("torch", "litert-torch", "ai-edge-quantizer"),
        deterministic=True,
    )


def _converted(bench: Workbench, batch: int) -> bytes:
    import litert_torch

    model = litert_torch.to_channel_last_io(bench.deployed(bench.model), args=[0]).eval()
    with contextlib.redirect_stdout(None):
        made = litert_torch.convert(model, (_as_fed(bench.example(batch=batch)),))
    return bytes(made.model_content())


def _of_recipe(bench: Workbench, batch: int) -> bytes:
    """Return the file that holds the numbers of the model's recipe."""
    import litert_torch
    from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
    from litert_torch.quantize.quant_config import QuantConfig

    example = _as_fed(bench.example(batch=batch))
    network = litert_torch.to_channel_last_io(bench.deployed(bench.rounding()[0]), args=[0]).eval()
    # Only whether it is static is asked of it: the program says the rest.
    static = QuantConfig(pt2e_quantizer=PT2EQuantizer().set_global(get_symmetric_quantization_config()))
    with contextlib.redirect_stdout(None):
        made = litert_torch.convert(in_steps(network, example, packed=False), (example,), quant_config=static)
    return bytes(made.model_content())


def _as_fed(images: Tensor) -> Tensor:
    return images.permute(0, 2, 3, 1).contiguous()


def _quantized(base: bytes, precision: Precision, bench: Workbench, batch: int) -> bytes:
    from ai_edge_quantizer import quantizer, recipe

    recipes = {
        "fp16": lambda: [_float16(operator) for operator in _LAYERS],
        "int8-weights": recipe.weight_only_wi8_afp32,
        "int8-static": recipe.static_wi8_ai8,
    }
    maker = quantizer.Quantizer(base, recipes[precision]())
    calibrated = None
    if precision == "int8-static":
        for operator in ("INPUT", "OUTPUT"):
            maker.update_quantization_recipe(regex=".*", operation_name=operator, algorithm_key="no_quantize")
        feeds = [{_INPUT: _as_fed(image).numpy()} for image in bench.calibration_feeds(batch)]
        calibrated = _ranges(base, maker.get_quantization_recipe(), feeds)
    return bytes(maker.quantize(calibrated, enable_progress_report=False).quantized_model)


def _ranges(base: bytes, recipe: Any, feeds: list[dict[str, Any]]) -> Any:
    """Return the smallest and largest value of each activation on all images.

    The quantiser's own default is a moving average of those of single images, which clips one image in two.
    """
    from ai_edge_quantizer import calibrator, recipe_manager
    from ai_edge_quantizer.utils import qsv_utils

    manager = recipe_manager.RecipeManager()
    manager.load_quantization_recipe(recipe)
    made = calibrator.Calibrator(base, num_threads=1, qsv_update_func=qsv_utils.min_max_update)
    made.calibrate({_SIGNATURE: feeds}, manager)
    return made.get_model_qsvs()


def _float16(operator: str) -> dict[str, Any]:
    weights = {"num_bits": 16, "symmetric": True, "granularity": "TENSORWISE", "dtype": "FLOAT"}
    config = {"weight_tensor_config": weights, "compute_precision": "FLOAT", "explicit_dequantize": True}
    return {"regex": ".*", "operation": operator, "algorithm_key": "float_casting", "op_config": config}


def _described(model: bytes, metadata: bytes) -> bytes:
    """Put the metadata among a model's buffers, and shorten the names of its tensors, which else are a third of it."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    tree = flatbuffer_utils.read_model_from_bytearray(bytearray(model))
    _give_float_ends(tree)
    (graph,) = tree.subgraphs
    own = {*graph.inputs, *graph.outputs}
    for index, tensor in enumerate(graph.tensors):
        if index not in own:
            tensor.name = _short(tensor.name.decode())
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = metadata
    entry.name, entry.buffer = BUFFER_NAME, len(tree.buffers)
    tree.buffers.append(buffer)
    tree.metadata.append(entry)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(tree))


def _give_float_ends(tree: Any) -> None:
    """Let a file whose input or output the converter made int8 take and give float32, as the others do."""
    from ai_edge_litert import schema_py_generated as schema

    (graph,), (signature,) = tree.subgraphs, tree.signatureDefs
    codes, is_first = schema.BuiltinOperator, True
    for ends, named, code in (
        (graph.inputs, signature.inputs, codes.QUANTIZE),
        (graph.outputs, signature.outputs, codes.DEQUANTIZE),
    ):
        inner, outer, operator, kind = ends[0], schema.TensorT(), schema.OperatorT(), schema.OperatorCodeT()
        if graph.tensors[inner].type == schema.TensorType.INT8:
            outer.name, outer.shape = graph.tensors[inner].name, graph.tensors[inner].shape
            outer.type, outer.buffer = schema.TensorType.FLOAT32, 0  # the empty one
            kind.builtinCode = kind.deprecatedBuiltinCode = code
            kind.version, operator.opcodeIndex = 1, len(tree.operatorCodes)
            ends[0] = named[0].tensorIndex = len(graph.tensors)
            operator.inputs, operator.outputs = ([ends[0]], [inner]) if is_first else ([inner], [ends[0]])
            graph.tensors.append(outer)
            tree.operatorCodes.append(kind)
            graph.operators.insert(0 if is_first else len(graph.operators), operator)
        is_first = False


def _short(name: str) -> str:
    """Return the module of a name as PyTorch has it, ``a.Net/b.Sequential_features/c.Conv2d_0;…`` → ``features.0``."""
    first = name.partition(";")[0]
    parts = [part.rpartition("_") for part in first.split("/")[1:]]
    return ".".join(last for kind, _, last in parts if kind).removeprefix(f"{_WRAPPED}.") or first
