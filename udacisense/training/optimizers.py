"""Devices, optimisers, learning rates and random numbers of training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from udacisense.errors import InputError
from udacisense.training.types import TrainConfig


def resolve_device(name: str) -> torch.device:
    """Return the device of a name; ``auto`` takes CUDA, then MPS, then the CPU.

    Raises:
        InputError: the name is unknown, or this machine has no such device.
    """
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(d for d in ("cuda", "mps", "cpu") if present[d]))
    if not present.get(name, False):
        has = ", ".join(d for d, is_there in present.items() if is_there)
        raise InputError(f"The device {name!r} is not available here; this machine has {has} (or auto).")
    return torch.device(name)


@contextmanager
def repeatable(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch, choose repeatable convolutions, and leave both as they were afterwards."""
    chosen, benchmark = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    devices = [] if device.type == "cpu" else [torch.cuda.current_device() if device.type == "cuda" else 0]
    with torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"):
        torch.manual_seed(seed)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        try:
            yield
        finally:
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = chosen, benchmark


def cosine_rate(step: int, *, total: int, warmup: int) -> float:
    """Return the learning rate's factor at a step: linear to 1 over ``warmup`` steps, then half a cosine to 0.

    Loshchilov and Hutter 2017 ("SGDR", equation 5, without restarts); warm-up as Goyal et al. 2017, section 2.2.
    """
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return the configured optimiser over the trainable parameters."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise InputError("The model has no trainable float32 parameters (is it quantised or TorchScript?).")
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
        )
    return torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Return the optimiser's state tensors as ``<parameter name>/<key>``."""
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def load_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put back what :func:`optimizer_tensors` returned.

    Raises:
        LookupError: a tensor is missing, or is of no parameter.
        RuntimeError: a tensor has another shape.
    """
    parameters = dict(model.named_parameters())
    names, keys = ({path.rsplit("/", 1)[part] for path in tensors} for part in (0, 1))
    if len(tensors) != len(names) * len(keys):
        raise LookupError("tensors of the optimiser are missing")
    for path, value in tensors.items():
        name, key = path.rsplit("/", 1)
        parameter = parameters[name]
        # Same memory layout as the parameter: arithmetic in another order of elements may round differently.
        kept = torch.empty_like(torch.tensor(0.0) if key == "step" else parameter).copy_(value)
        optimizer.state[parameter][key] = kept.detach()


def rng_states(device: torch.device) -> dict[str, Tensor]:
    """Return the states of torch's generators that training on a device draws from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_rng_states(device: torch.device, states: Mapping[str, Tensor]) -> None:
    """Put back what :func:`rng_states` returned."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(states["mps"])


def laid_out(model: nn.Module, layout: torch.memory_format) -> nn.Module:
    """Return the module with its 4-dimensional weights in a memory layout."""
    moved: nn.Module = model.to(memory_format=layout)  # type: ignore[call-overload]
    return moved


def plateau_state(plateau: ReduceLROnPlateau | None) -> dict[str, int | float]:
    """Return what a plateau schedule must remember, for JSON."""
    if plateau is None:
        return {}
    # The rest of its state follows from the configuration (and has infinities, which JSON lacks).
    return {key: getattr(plateau, key) for key in ("best", "num_bad_epochs", "cooldown_counter", "last_epoch")}
