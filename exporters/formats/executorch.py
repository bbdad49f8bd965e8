"""ExecuTorch ``.pte`` through XNNPACK: float32, and static int8 by PT2E quantisation."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from exporters.bundle.metadata import metadata_text
from exporters.bundle.pte_file import read_pte
from exporters.bundle.qdq import NOTE, in_steps
from exporters.formats.contract import ExportOptions, Plan, Product, make_plan
from exporters.formats.coverage import coverage_of_file
from exporters.formats.workbench import Workbench, versions
from udacisense.base.files import METADATA_KEY

NOTES = {
    "fp32": "none: the float32 weights",
    "int8-static": "weights of convolutions and linear layers int8 by channel, activations int8 at calibrated scales",
}


def plans(options: ExportOptions) -> tuple[Plan, ...]:
    """Return float32 and static int8, both for XNNPACK."""
    del options
    return (make_plan("executorch", "fp32"), make_plan("executorch", "int8-static"))


def export(plan: Plan, bench: Workbench) -> Product:
    """Export, quantise where asked for, and lower to XNNPACK."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    # The shapes of a .pte are planned ahead of time: one batch size a file.
    batch = bench.options.batch or 1
    example = bench.example(batch=batch)
    is_int8 = plan.precision == "int8-static"
    recipe = bench.recipe(plan.precision)
    if recipe is not None:
        model: nn.Module = in_steps(bench.deployed(bench.rounding()[0]), example, packed=True)
    else:
        model = _calibrated(example, bench) if is_int8 else bench.deployed(bench.model)
    exported = torch.export.export(model, (example,), strict=True)
    program: Any = to_edge_transform_and_lower(
        exported,
        partitioner=[XnnpackPartitioner()],
        constant_methods={METADATA_KEY: metadata_text(bench.metadata(plan, batch=batch))},  # a method that answers it
    ).to_executorch()
    target = bench.folder / plan.file_name
    target.write_bytes(program.buffer)
    found = read_pte(target)
    return Product(
        input_kind=bench.input_kind,
        output_kind=bench.output_kind,
        batch=batch,
        coverage=coverage_of_file(bench, found.layers) if is_int8 else None,
        precision_note=NOTES[plan.precision] + (NOTE if recipe is not None else ""),
        options={
            "backend": "xnnpack",
            "delegated": _words(found.delegated),
            "not_delegated": _words(found.left) or None,
            **bench.recipe_options(plan, recipe),
        },
        toolchain=versions("torch", "executorch", "torchao"),
        deterministic=True,
    )


def _words(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _calibrated(example: torch.Tensor, bench: Workbench) -> nn.Module:
    """Return the program as PT2E calibrates it."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    graph: Any = torch.export.export(bench.deployed(bench.model), (example,), strict=True).module()
    prepared = prepare_pt2e(graph, quantizer)
    with torch.no_grad():
        for images in bench.calibration_feeds(len(example)):
            prepared(images)
    converted: nn.Module = convert_pt2e(prepared)
    return converted
