"""Post-training quantisation."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import fx, nn

from udacisense.base.tensors import supported_engines
from udacisense.errors import InputError, did_you_mean
from udacisense.stages.contract import StepContext, StepResult, plain_copy


@contextmanager
def quantized_engine(engine: str) -> Iterator[None]:
    """Select a quantised engine while the block runs, and the former one afterwards.

    Raises:
        InputError: this host's PyTorch has no such engine.
    """
    allowed = supported_engines()
    if engine not in allowed:
        raise InputError(
            f"Quantised engine {engine!r} is not in this host's PyTorch; it has {', '.join(sorted(allowed)) or 'none'}."
            f"{did_you_mean(engine, allowed)}"
        )
    former = torch.backends.quantized.engine
    torch.backends.quantized.engine = engine
    try:
        yield
    finally:
        torch.backends.quantized.engine = former


def reshaping(graph: fx.GraphModule) -> fx.GraphModule:
    """Let a graph reshape where the model asks for a view, in place; return it: int8 maps lie with channels last."""
    for node in graph.graph.nodes:
        asks_for_dtype = any(isinstance(given, torch.dtype) for given in (*node.args, *node.kwargs.values()))
        if node.op == "call_method" and node.target == "view" and not asks_for_dtype:
            node.target = "reshape"
    graph.recompile()
    return graph


def dynamic_int8(model: nn.Module, *, engine: str) -> nn.Module:
    """Return a copy whose ``nn.Linear`` weights are int8; activations are quantised call by call.

    Each weight matrix W (out, in) is stored as qint8 with one scale s = max|W| / 127.5 and zero point 0, so
    W ≈ s·q. Convolutions stay float32: PyTorch has no dynamic kernels for them.

    Args:
        model: an eager float32 model; it stays as it is.
        engine: whose memory layout the weights are packed for: ``qnnpack`` (ARM), ``fbgemm`` or ``x86``.

    Raises:
        InputError: this host lacks the engine, or the model has no ``nn.Linear`` left to quantise.
    """
    source = plain_copy(model).eval()
    if not any(type(m) is nn.Linear for m in source.modules()):
        raise InputError("Dynamic quantisation needs an eager float32 model with an nn.Linear; this one has none.")
    with quantized_engine(engine), warnings.catch_warnings():
        # PyTorch announces that torch.ao.quantization moves to torchao; the pinned release still has it.
        warnings.filterwarnings("ignore", message=".*torch.ao.quantization is deprecated.*")
        packed = torch.ao.quantization.quantize_dynamic(source, {nn.Linear}, dtype=torch.qint8)  # type: ignore[no-untyped-call]
    return cast("nn.Module", packed)


def apply_dynamic_quantization(model: nn.Module, context: StepContext, *, engine: str | None = None) -> StepResult:
    """Pipeline step: dynamic int8 of the linear layers; see :func:`dynamic_int8`.

    Args:
        model: an eager float32 model.
        context: the pipeline's surroundings; nothing of it is used.
        engine: ``None`` takes the one PyTorch prefers on this host.
    """
    del context
    chosen = engine if engine is not None else next(iter(supported_engines()), "none")
    packed = dynamic_int8(model, engine=chosen)
    n_linear = sum(type(m) is nn.Linear for m in model.modules())
    return StepResult(model=packed, notes={"engine": chosen, "layers_int8": n_linear})
