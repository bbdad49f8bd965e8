"""Graph optimisation: trace the eager model into TorchScript and freeze it."""

from __future__ import annotations

import copy
import warnings
from typing import cast

import torch
from torch import Tensor, nn

from udacisense.errors import StageError, first_line
from udacisense.models.resizing import ProductsForBilinear
from udacisense.stages.contract import Kind, StepContext, StepResult, kind_of

RELATIVE_LIMIT_FP32 = 1e-4
# Folding batch normalisation moves activations by a rounding error, which may carry one of them over an int8
# rounding border: a step of the quantiser, not a fault of the graph. A wrong graph is off by far more.
RELATIVE_LIMIT_INT8 = 5e-2
_SMALLEST_SCALE = 1e-6  # logits below this are rounding noise themselves (an untrained network)

# `torch.jit.optimize_for_inference` is left out on purpose. It rewrites convolutions into MKLDNN operators whose
# weights are opaque constants: `torch.jit.save` drops them (a 4.3 MB model becomes 0.6 MB) and loading the file fails
# with "required keyword attribute 'value' is undefined". A graph that has to reach a phone must survive its file.
NOT_OPTIMIZED_FP32 = (
    "skipped: optimize_for_inference ties the graph to this host's MKLDNN and the saved file would not load again"
)
NOT_OPTIMIZED_INT8 = (
    "skipped: optimize_for_inference has no rewrite for quantised operators, and its MKLDNN ones do not survive saving"
)


def is_frozen(model: nn.Module) -> bool:
    """Tell whether a module is frozen TorchScript (freezing removes the ``training`` attribute)."""
    return isinstance(model, torch.jit.ScriptModule) and not hasattr(model, "training")


def trace_and_freeze(model: nn.Module, example: Tensor) -> torch.jit.ScriptModule:
    """Return ``model`` as frozen TorchScript: parameters inlined, batch normalisation folded into convolutions.

    Args:
        model: an eager float32 or quantised model, or TorchScript, on the CPU. It stays as it is. What is already
            frozen is returned unchanged: freezing again would fail.
        example: float32 (N, 3, H, W), on the CPU. Other batch sizes work on the result too, unless the
            model's Python code depends on them.

    Raises:
        StageError: the model cannot be traced, or its outputs moved by more than 1e-4 of the largest logit.
    """
    return _traced(model, example)[0]


def apply_graph_optimization(model: nn.Module, context: StepContext) -> StepResult:
    """Pipeline step: trace, freeze, and check that the outputs are still the same.

    Notes kept: ``max_abs_difference`` and ``optimize_for_inference`` (why it is not applied).
    """
    kind = kind_of(model)
    frozen, difference = _traced(model, context.example)
    reason = NOT_OPTIMIZED_FP32 if kind is Kind.EAGER_FLOAT else NOT_OPTIMIZED_INT8
    return StepResult(model=frozen, notes={"max_abs_difference": difference, "optimize_for_inference": reason})


def _traced(model: nn.Module, example: Tensor) -> tuple[torch.jit.ScriptModule, float]:
    """Return the frozen module and its max |Δ| to ``model``."""
    if is_frozen(model):
        return cast("torch.jit.ScriptModule", model), 0.0
    source = copy.deepcopy(model).eval()
    with torch.inference_mode(), warnings.catch_warnings():
        if kind_of(model) is Kind.EAGER_INT8:
            # Quantised activations hold their scale in a tensor, which the trace rightly takes as a constant.
            warnings.filterwarnings("ignore", message="Converting a tensor to a Python")
        try:
            # PyTorch's own check of the trace compares one input with itself; ours below uses unseen ones too.
            scripted = source if isinstance(source, torch.jit.ScriptModule) else _trace(source, example)
            frozen = torch.jit.freeze(scripted)
        except (RuntimeError, TypeError, ValueError) as exc:
            raise StageError(
                f"{type(model).__name__} cannot be traced into TorchScript ({first_line(exc)}); "
                "its forward must take one tensor and return one tensor."
            ) from exc
        difference = _max_difference(source, frozen, example)
    return frozen, difference


def _trace(source: nn.Module, example: Tensor) -> torch.jit.ScriptModule:
    if kind_of(source) is Kind.EAGER_FLOAT:
        # A twelfth to an eighth faster on a desk, no instruction more on ARM; what comes in may be in either layout.
        for parameter in source.parameters():
            if parameter.dim() == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    with ProductsForBilinear():
        return torch.jit.trace(source, example, check_trace=False)  # type: ignore[no-any-return, no-untyped-call]


def _max_difference(source: nn.Module, frozen: torch.jit.ScriptModule, example: Tensor) -> float:
    """Compare on the example, its negative and seeded noise; a branch taken on the data shows here.

    Raises:
        StageError: the largest |Δ| is over the limit, or not finite.
    """
    limit = RELATIVE_LIMIT_FP32 if kind_of(source) is Kind.EAGER_FLOAT else RELATIVE_LIMIT_INT8
    noise = torch.randn(example.shape, generator=torch.Generator().manual_seed(0))
    largest = 0.0
    for probe in (example, -example, noise):
        expected, answered = source(probe), frozen(probe)
        scale = max(expected.abs().max().item(), _SMALLEST_SCALE)
        difference = (answered - expected).abs().max().item()
        if not difference <= limit * scale:  # also true for NaN
            raise StageError(
                f"Graph optimisation changed the outputs of {type(source).__name__}: max |Δ| {difference:.3g} where "
                f"the largest logit is {scale:.3g}, and {limit:g} of that is allowed. A forward that branches on its "
                "input's values cannot be traced."
            )
        largest = max(largest, difference)
    return largest
