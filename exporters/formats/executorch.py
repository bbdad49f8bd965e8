"""ExecuTorch ``.pte`` through XNNPACK: float32, and static int8 by PT2E quantisation."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import nn

from exporters.formats.contract import ExportOptions, Plan, Product, make_plan
from exporters.formats.workbench import Workbench, versions

NOTES = {
    "fp32": "none: the float32 weights",
    "int8-static": "weights of convolutions and linear layers int8 by channel, activations int8 at calibrated scales",
}


def unavailable() -> str | None:
    """Return what to install where the extra is missing."""
    if importlib.util.find_spec("executorch") is None:
        return "ExecuTorch is not installed; install the extra: pip install 'udacisense[executorch]'"
    return None


def plans(options: ExportOptions) -> tuple[Plan, ...]:
    """Return float32 and static int8, both for XNNPACK."""
    del options
    return (make_plan("executorch", "fp32", ".pte"), make_plan("executorch", "int8-static", ".pte"))


def export(plan: Plan, bench: Workbench) -> Product:
    """Export, quantise where asked for, and lower to XNNPACK."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    # The shapes of a .pte are planned ahead of time: one batch size a file.
    batch = bench.options.batch or 1
    example = bench.example(batch=batch)
    model: nn.Module = bench.deployed(bench.model)
    if plan.precision == "int8-static":
        model = _quantized(model, example, bench)
    exported = torch.export.export(model, (example,), strict=True)
    program: Any = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch()
    (bench.folder / plan.file_name).write_bytes(program.buffer)
    is_int8 = plan.precision == "int8-static"
    return Product(
        input_kind=bench.input_kind,
        output_kind=bench.output_kind,
        batch=batch,
        coverage=_all_layers(bench) if is_int8 else None,
        precision_note=NOTES[plan.precision],
        options={
            "backend": "xnnpack",
            "calibration_images": len(bench.calibration) if is_int8 and bench.calibration is not None else None,
        },
        toolchain=versions("torch", "executorch"),
        deterministic=True,
    )


def _quantized(model: nn.Module, example: torch.Tensor, bench: Workbench) -> nn.Module:
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torch.ao.quantization.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    graph: Any = torch.export.export_for_training(model, (example,), strict=True).module()
    prepared = prepare_pt2e(graph, quantizer)
    size = len(example)
    with torch.no_grad():
        for images in bench.calibration_batches(as_fed=True):
            for start in range(0, len(images) - size + 1, size):
                prepared(images[start : start + size])
    converted: nn.Module = convert_pt2e(prepared)
    return converted


def _all_layers(bench: Workbench) -> Any:
    from exporters.formats.coverage import coverage

    # What XNNPACK's quantiser takes; of other modules, such as recurrent ones, it leaves the products in float32.
    kinds = nn.modules.conv._ConvNd | nn.Linear
    int8 = {name for name, module in bench.model.named_modules() if isinstance(module, kinds)}
    return coverage(bench.model, bench.golden_inputs[:1], int8)
