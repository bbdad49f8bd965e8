"""TorchScript ``.pt``: traced, frozen, for LibTorch and full PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from exporters.bundle.manifest import Coverage
from exporters.bundle.metadata import EXTRA_FILE, metadata_text
from exporters.bundle.precision import engine_unavailable
from exporters.formats.contract import ExportOptions, NotPossibleError, Plan, Product, make_plan
from exporters.formats.coverage import coverage, int8_modules
from exporters.formats.workbench import Workbench, versions
from udacisense.base.tensors import torchscript_bytes
from udacisense.stages.graph import trace_and_freeze
from udacisense.stages.int8.signed import activation_type
from udacisense.stages.quantize import quantized_engine

Rewrite = Callable[[nn.Module, Tensor], nn.Module]
ANY_BATCH = 3  # a batch that no trace was made with

NOTES = {
    "fp32": "none: the float32 weights, BatchNorm folded into the convolutions",
    "int8-dynamic": "weights of linear layers int8, activations quantised call by call; convolutions stay float32",
    "int8-static": "weights of convolutions and linear layers int8 by channel, activations int8 at calibrated scales",
}


def plans(options: ExportOptions) -> tuple[Plan, ...]:
    """Return float32, and dynamic and static int8 by engine."""
    int8 = [
        make_plan("torchscript", precision, engine=engine)
        for precision in ("int8-dynamic", "int8-static")
        for engine in options.engines
    ]
    return (make_plan("torchscript", "fp32"), *int8)


def export(plan: Plan, bench: Workbench) -> Product:
    """Trace, freeze and save one precision."""
    scripted, batch = traced(plan, bench)
    text = metadata_text(bench.metadata(plan, batch=batch))
    (bench.folder / plan.file_name).write_bytes(torchscript_bytes(scripted, extra={EXTRA_FILE: text}))
    return describe(plan, bench, batch=batch)


def traced(
    plan: Plan, bench: Workbench, *, rewrite: Rewrite | None = None
) -> tuple[torch.jit.ScriptModule, int | None]:
    """Return a plan's frozen module, and the batch size that it is bound to (None: any).

    The formats' files are made in a fresh process each, so the names that tracing makes up repeat. ``rewrite`` is
    given the eager model, as it ships, and an example, and returns what is traced.

    Raises:
        NotPossibleError: the engine is missing, or a batch size was asked for that the trace does not take.
    """
    if plan.engine is not None:
        reason = engine_unavailable(plan.engine)
        if reason is not None:
            raise NotPossibleError(reason)
        with quantized_engine(plan.engine):
            return _traced(plan, bench, rewrite)
    return _traced(plan, bench, rewrite)


def _traced(plan: Plan, bench: Workbench, rewrite: Rewrite | None) -> tuple[torch.jit.ScriptModule, int | None]:
    model = bench.deployed(bench.classifier(plan))
    batch = bench.options.batch
    example = bench.example(batch=batch or 1)
    scripted = trace_and_freeze(model if rewrite is None else rewrite(model, example), example)
    if batch is None and not takes_batch(scripted, model, bench.example(batch=ANY_BATCH)):
        batch = 1
    return scripted, batch


def takes_batch(scripted: nn.Module, model: nn.Module, example: Tensor) -> bool:
    """Tell whether a trace answers a batch size that it was not made with as the eager model does."""
    with torch.inference_mode():
        expected = model(example)
        try:
            answered = scripted(example)
        # TorchScript raises RuntimeError on shapes that a constant in the trace does not fit.
        except RuntimeError:
            return False
    return bool(answered.shape == expected.shape)


def describe(plan: Plan, bench: Workbench, *, batch: int | None) -> Product:
    """Return what there is to say about a PyTorch variant."""
    recipe = bench.activations(plan.recipe_engine) if plan.recipe_engine is not None else None
    return Product(
        input_kind=bench.input_kind,
        output_kind=bench.output_kind,
        batch=batch,
        coverage=_coverage(plan, bench),
        precision_note=NOTES[plan.precision],
        options={
            **bench.recipe_options(plan, recipe),
            "activations": None if recipe is None else activation_type(bench.classifier(plan)),
        },
        toolchain=versions("torch"),
        deterministic=True,
    )


def _coverage(plan: Plan, bench: Workbench) -> Coverage | None:
    if plan.engine is None:
        return None
    return coverage(bench.model, bench.golden_inputs[:1], int8_modules(bench.classifier(plan)))
