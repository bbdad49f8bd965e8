"""Pruning: weights that are small become zero, or whole channels go."""

from __future__ import annotations

import gzip
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from udacisense.base.records import Scalar, record
from udacisense.errors import InputError, TrainingError, cause
from udacisense.measure.counts import count_macs, count_parameters
from udacisense.stages.contract import StepContext, StepResult, copy_of
from udacisense.training import train
from udacisense.training.types import Distillation, SizedBatches, TrainConfig

_VECTOR = 8  # channels are removed in whole vectors of the kernels


@record
class LayerSparsity:
    """How much of one layer's weight is zero."""

    layer: str
    weights: int
    zero_fraction: float


@record
class Sparsity:
    """Where the zeros are; ``sparsity.json``."""

    layers: tuple[LayerSparsity, ...]


class Mask(nn.Module):
    """A parametrisation that holds weights at zero, also while they train."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight with zeros where the mask is."""
        return weight * self.mask


def apply_magnitude_pruning(
    model: nn.Module,
    context: StepContext,
    *,
    amount: float = 0.3,
    epochs: int = 0,
    learning_rate: float = 2e-4,
    config: TrainConfig = TrainConfig(channels_last=True, warmup_epochs=0.0),  # noqa: B008 - frozen
) -> StepResult:
    """Pipeline step: the weights of least magnitude become zero, over all convolutions and linear layers at once.

    Without epochs it is one-shot. With epochs the share of zeros grows over the first half of them, after the cubic
    schedule of Zhu and Gupta 2017, "To prune, or not to prune", section 3.1, and the rest trains with the final mask;
    the dense model teaches. Zeros alone make no dense file smaller and no dense kernel faster: the notes give the
    size after gzip beside it.

    Args:
        model: an eager float32 model.
        context: training batches, device and seed.
        amount: 0..1, the share of weights that become zero (0 and 1 excluded).
        epochs: of pruning and fine-tuning; 0 prunes at once and trains nothing.
        learning_rate: of fine-tuning.
        config: every other setting of training.

    Raises:
        InputError: ``amount`` or ``epochs`` is out of range, or there is nothing to prune.
    """
    if not 0 < amount < 1:
        raise InputError(f"The pruning amount is {amount}; allowed is more than 0 and less than 1.")
    if epochs < 0:
        raise InputError(f"Pruning with {epochs} epochs: allowed is 0 (one-shot) or more.")
    pruned = copy_of(model).eval()
    names = _weighted(pruned)
    if not names:
        raise InputError("The model has no convolution and no linear layer to prune.")
    computed = [name for name in names if not isinstance(pruned.get_submodule(name)._parameters.get("weight"), Tensor)]
    if computed:
        raise InputError(
            f"The weight of {computed[0]} is computed from others (weight_norm, spectral_norm, prune or a "
            "parametrisation), so that its zeros would not stay; remove that from the model first."
        )
    if epochs:
        pruned = _gradually(pruned, model, context, amount, _settings(config, context, epochs, learning_rate))
    else:
        _fix(pruned, _masks({n: cast("Any", pruned.get_submodule(n)).weight for n in names}, amount))
    layers = tuple(_layer_sparsity(name, cast("Any", pruned.get_submodule(name)).weight) for name in names)
    notes: dict[str, Scalar] = {"amount": amount, "epochs": epochs, "gzip_bytes": gzip_bytes(pruned)}
    return StepResult(model=pruned, notes=notes, documents={"sparsity": Sparsity(layers=layers)})


def apply_structured_pruning(
    model: nn.Module,
    context: StepContext,
    *,
    amount: float = 0.3,
    epochs: int = 3,
    learning_rate: float = 5e-4,
    config: TrainConfig = TrainConfig(channels_last=True, warmup_epochs=0.0),  # noqa: B008 - frozen
) -> StepResult:
    """Pipeline step: channels of least group magnitude are removed, and the smaller network learns from the whole one.

    The dependency graph that keeps layers of coupled channels in step is torch-pruning's (Fang et al. 2023, "DepGraph:
    Towards Any Structural Pruning").

    Args:
        model: an eager float32 model; its last linear layer keeps its outputs.
        context: training batches, device and seed.
        amount: 0..1, the share of channels to remove over the network (0 and 1 excluded).
        epochs: of fine-tuning with the unpruned model as teacher (T = 3, α = 0.7); 0: none.
        learning_rate: of fine-tuning.
        config: every other setting of training.

    Raises:
        InputError: ``amount`` or ``epochs`` is out of range.
        TrainingError: no channel could be removed.
    """
    if not 0 < amount < 1:
        raise InputError(f"The pruning amount is {amount}; allowed is more than 0 and less than 1.")
    if epochs < 0:
        raise InputError(f"Fine-tuning for {epochs} epochs: allowed is 0 or more.")
    smaller, macs = _narrowed(model, context, amount)
    if count_parameters(smaller) == count_parameters(model):
        raise TrainingError(
            f"Structured pruning removed nothing: {count_parameters(model):,} parameters before and after. The layers "
            f"hang together, or are too narrow for groups of {_VECTOR} channels; prune by magnitude, or distil a "
            "narrower student."
        )
    if epochs:
        smaller = _taught(smaller, model, context, _settings(config, context, epochs, learning_rate))
    notes: dict[str, Scalar] = {
        "amount": amount,
        "epochs": epochs,
        "macs_kept_fraction": macs / count_macs(model, context.input_shape),
        "parameters_kept_fraction": count_parameters(smaller) / count_parameters(model),
    }
    return StepResult(model=smaller, notes=notes)


def _narrowed(model: nn.Module, context: StepContext, amount: float) -> tuple[nn.Module, int]:
    """Return a copy without the channels of least group magnitude, and its multiply-accumulates."""
    try:
        smaller = _without_channels(model, context.example, amount)
        return smaller, count_macs(smaller, context.input_shape)
    # torch-pruning follows tensors through the user's code and stumbles as it happens; the code may count its channels.
    except Exception as exc:
        raise TrainingError(
            f"Structured pruning cannot narrow this network ({cause(exc).rstrip('.')}); prune by magnitude, or distil "
            "a narrower student."
        ) from exc


def _without_channels(model: nn.Module, example: Tensor, amount: float) -> nn.Module:
    import torch_pruning

    smaller = copy_of(model).eval()
    last = [module for module in smaller.modules() if isinstance(module, nn.Linear)][-1:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch-pruning warns of parameters that it leaves alone
        torch_pruning.pruner.MagnitudePruner(
            smaller,
            example,
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            global_pruning=True,
            pruning_ratio=amount,
            max_pruning_ratio=0.8,  # no layer loses more: a narrow one would cut the network in two
            round_to=_VECTOR,
            ignored_layers=last,
        ).step()
    return smaller


def gzip_bytes(model: nn.Module) -> int:
    """Return the size of a model's float32 weights after gzip, level 9."""
    state = model.state_dict()
    return len(gzip.compress(b"".join(t.detach().cpu().contiguous().numpy().tobytes() for t in state.values()), 9))


def _weighted(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def _settings(config: TrainConfig, context: StepContext, epochs: int, learning_rate: float) -> TrainConfig:
    return replace(config, epochs=epochs, learning_rate=learning_rate, compute=context.compute, seed=context.seed)


def _taught(student: nn.Module, teacher: nn.Module, context: StepContext, config: TrainConfig) -> nn.Module:
    return train(
        student,
        cast("SizedBatches", context.train),
        config=config,
        validation=context.validation,
        distillation=Distillation(teacher=teacher, temperature=3.0, alpha=0.7),
        keep=context.keep,
    ).model


def _gradually(
    model: nn.Module, teacher: nn.Module, context: StepContext, amount: float, config: TrainConfig
) -> nn.Module:
    names = _weighted(model)
    for name in names:
        module = model.get_submodule(name)
        mask = Mask(torch.ones_like(cast("Tensor", module.weight)))
        parametrize.register_parametrization(module, "weight", mask)
    ramp = max(1, config.epochs // 2)

    def tighten(training: nn.Module, epoch: int) -> None:
        if epoch < ramp:
            _tighten(training, names, amount * (1 - (1 - (epoch + 1) / ramp) ** 3))

    trained = train(
        model,
        cast("SizedBatches", context.train),
        config=config,
        # No validation: the best epoch would be one of those before the last weights were taken away.
        distillation=Distillation(teacher=teacher, temperature=3.0, alpha=0.7),
        keep=context.keep,
        before_epoch=tighten,
    ).model
    for name in names:
        parametrize.remove_parametrizations(trained.get_submodule(name), "weight", leave_parametrized=True)
    return trained


def _tighten(model: nn.Module, names: list[str], amount: float) -> None:
    found = {name: cast("Any", model.get_submodule(name)).parametrizations.weight for name in names}
    for name, mask in _masks({name: kept.original for name, kept in found.items()}, amount).items():
        found[name][0].mask.copy_(mask)


def _masks(weights: Mapping[str, Tensor], amount: float) -> dict[str, Tensor]:
    """Return 0/1 masks that leave out the ``amount`` of all weights with the least magnitude, wherever they are."""
    sizes = torch.cat([weight.detach().abs().flatten() for weight in weights.values()])
    border = sizes.kthvalue(max(1, round(amount * len(sizes)))).values
    return {name: (weight.detach().abs() > border).to(weight.dtype) for name, weight in weights.items()}


def _fix(model: nn.Module, masks: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, mask in masks.items():
            cast("Any", model.get_submodule(name)).weight.mul_(mask)


def _layer_sparsity(name: str, weight: Tensor) -> LayerSparsity:
    zeros = 1 - torch.count_nonzero(weight).item() / weight.numel()
    return LayerSparsity(layer=name, weights=weight.numel(), zero_fraction=zeros)
