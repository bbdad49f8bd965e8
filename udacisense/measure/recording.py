"""The figures of one compression stage, and latencies that may be held against each other."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn

from udacisense.base.records import Scalar, StageRecord
from udacisense.measure.metrics import evaluate, inference, median_latency_ms, one_thread, state_bytes
from udacisense.measure.timing import collect_samples

_ROUNDS = 10


def is_quantized(module: nn.Module) -> bool:
    """Tell whether this one module (not its children) is a layer with quantised weights."""
    is_from_torch = type(module).__module__.startswith(("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized"))
    # Layers answer weight() as a method; the packed parameters inside them and activation quantisers have none.
    return is_from_torch and callable(getattr(module, "weight", None))


def parameter_counts(model: nn.Module) -> tuple[int, int]:
    """Return how many parameters an eager model has, and how many of them are not zero.

    Packed int8 weights are no ``nn.Parameter``; they are unpacked and counted, so that quantisation alone does not
    seem to remove parameters.
    """
    tensors: list[Tensor] = list(model.parameters())
    for module in model.modules():
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if is_quantized(module) and callable(weight) and callable(bias):
            packed = [weight(), bias()]
            tensors += [t.dequantize() if t.is_quantized else t for t in packed if t is not None]
    return sum(t.numel() for t in tensors), sum(int(torch.count_nonzero(t)) for t in tensors)


def record_stage(
    model: nn.Module,
    *,
    stage: str,
    config: Mapping[str, Scalar],
    duration_s: float,
    test: Iterable[tuple[Tensor, Tensor]],
    class_names: Sequence[str],
    input_shape: tuple[int, ...],
    counts: tuple[int, int] | None = None,
) -> StageRecord:
    """Measure a model on the CPU: size, parameters, accuracy on the test images, latency at batch 1.

    Args:
        model: eager, quantised or TorchScript, on the CPU.
        stage: what the record is called.
        config: the settings that made the model.
        duration_s: how long that took.
        test: batches of images and labels.
        class_names: in output order.
        input_shape: (1, 3, H, W).
        counts: parameters and non-zero ones where the model itself no longer tells them (frozen TorchScript has
            folded its parameters into constants).
    """
    parameters, nonzero = counts if counts is not None else parameter_counts(model)
    found = evaluate(model, test, class_names)
    return StageRecord(
        stage=stage,
        config=dict(config),
        duration_s=duration_s,
        file_bytes=state_bytes(model),
        parameters=parameters,
        nonzero_parameters=nonzero,
        top1_fraction=found.top1_fraction,
        top5_fraction=found.top5_fraction,
        per_class=found.per_class,
        latency_ms=median_latency_ms(model, input_shape),
        n_eval_images=found.n_images,
    )


def latencies_by_turns(models: Sequence[nn.Module], input_shape: tuple[int, ...]) -> list[dict[int, float]]:
    """Time models by turns on one thread, so that a busy minute slows all of them.

    Args:
        models: on the CPU; their training modes are left as they were.
        input_shape: (N, 3, H, W); the values fed are seeded standard normal.

    Returns:
        For each model, round → median time of one call (ms). A round is at least five samples of each model; each
        starts with the next one, and every second goes backwards.
    """
    images = torch.randn(input_shape, generator=torch.Generator().manual_seed(0))
    medians: list[dict[int, float]] = [{} for _ in models]
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(inference(model))
        stack.enter_context(one_thread())
        for turn in range(_ROUNDS):
            order = [(turn + i) % len(models) for i in range(len(models))]
            for which in order if turn % 2 == 0 else reversed(order):
                found = collect_samples(partial(models[which], images), warmup=2, min_samples=5, min_s=0.0, max_s=1.0)
                medians[which][turn] = statistics.median(found.samples_ms)
    return medians
