"""PyTorch Mobile ``.ptl``: bytecode for the lite interpreter, plain or with XNNPACK's prepacked weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from torch import nn

from exporters.bundle.metadata import EXTRA_FILE, metadata_text
from exporters.formats.contract import PHONE_ENGINE, ExportOptions, NotPossibleError, Plan, Product, make_plan
from exporters.formats.pointwise import right_on_x86, small_pointwise
from exporters.formats.torchscript import describe, traced
from exporters.formats.workbench import Workbench
from udacisense.base.tensors import compact
from udacisense.errors import InputError
from udacisense.measure.metrics import scale_of

XNNPACK = "xnnpack"


def plans(options: ExportOptions) -> tuple[Plan, ...]:
    """Return float32 plain and for XNNPACK, and int8 for QNNPACK, whatever the engines asked for."""
    del options
    return (
        make_plan("ptl", "fp32"),
        make_plan("ptl", "fp32", detail=XNNPACK),
        make_plan("ptl", "int8-dynamic", engine=PHONE_ENGINE),
        make_plan("ptl", "int8-static", engine=PHONE_ENGINE),
    )


def export(plan: Plan, bench: Workbench) -> Product:
    """Trace, freeze, prepack where asked for, and save one precision.

    XNNPACK has convolutions of its own, right on every map, and so has QNNPACK; see
    :mod:`exporters.formats.pointwise` for the others, those of static int8's float32 blocks among them.
    """
    is_plain = plan.detail != XNNPACK  # as exporters.formats.pointwise.is_plain_ptl
    scripted, batch = traced(plan, bench, rewrite=right_on_x86 if is_plain else None)
    if plan.detail == XNNPACK:
        scripted = _prepacked(scripted, bench.deployed(bench.model), bench)
    text = metadata_text(bench.metadata(plan, batch=batch))
    saveable = cast("Any", scripted)
    # Through memory: given a path, torch repeats the file's name before each of the archive's entries.
    data: bytes = saveable._save_to_buffer_for_lite_interpreter(_extra_files={EXTRA_FILE: text})
    (bench.folder / plan.file_name).write_bytes(compact(data))
    product = describe(plan, bench, batch=batch)
    if not is_plain:
        return product
    count = len(small_pointwise(bench.deployed(bench.classifier(plan)), bench.example(batch=1)))
    return replace(product, options={**product.options, "pointwise_as_products": count})


def _prepacked(scripted: torch.jit.ScriptModule, model: nn.Module, bench: Workbench) -> torch.jit.ScriptModule:
    """Rewrite convolutions and linear layers to XNNPACK's prepacked ones, and check that they still answer the same.

    The module must be frozen before: on a merely traced one ``optimize_for_mobile`` folds BatchNorm into
    convolutions without a bias, and loses BatchNorm's bias in doing so (pytorch/pytorch#76807).
    """
    from torch.backends import xnnpack
    from torch.utils.mobile_optimizer import optimize_for_mobile

    if not cast("Any", xnnpack).enabled:
        raise NotPossibleError("This PyTorch was built without XNNPACK; install torch 2.7.0, the last with it.")
    rewritten = cast("torch.jit.ScriptModule", optimize_for_mobile(scripted))
    probe = bench.example(batch=bench.options.batch or 1)
    with torch.inference_mode():
        expected, answered = model(probe), rewritten(probe)
    if not torch.allclose(answered, expected, rtol=1e-3, atol=1e-3 * scale_of(expected.numpy())):
        largest = (answered - expected).abs().max().item()
        raise InputError(f"optimize_for_mobile changed the answers (max |Δ| {largest:.3g}); use the plain ptl-fp32.")
    return rewritten
