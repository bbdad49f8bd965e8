"""Optimisers, averaged weights, learning rates and random numbers of training."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from udacisense.errors import InputError
from udacisense.models.weights import put_state
from udacisense.training.types import TrainConfig


def cosine_rate(step: int, *, total: int, warmup: int) -> float:
    """Return the learning rate's factor at a step: linear to 1 over ``warmup`` steps, then half a cosine to 0.

    Loshchilov and Hutter 2017 ("SGDR", equation 5, without restarts); warm-up as Goyal et al. 2017, section 2.2.
    """
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def make_optimizer(weights: Mapping[str, nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
    """Return the configured optimiser over the trainable ones of named weights."""
    parameters = [p for p in weights.values() if p.requires_grad]
    if not parameters:
        raise InputError("The model has no trainable float32 parameters (is it quantised or TorchScript?).")
    fused = True if parameters[0].is_cuda else None
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=config.learning_rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            fused=fused,
        )
    return torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=fused)


def optimizer_tensors(optimizer: torch.optim.Optimizer, weights: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Return the optimiser's state tensors as ``<parameter name>/<key>``."""
    return {
        f"{name}/{key}": value
        for name, parameter in weights.items()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, weights: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Put back what :func:`optimizer_tensors` returned.

    Raises:
        LookupError: a tensor is missing, or is of no parameter.
        RuntimeError: a tensor has another shape.
    """
    names, keys = ({path.rsplit("/", 1)[part] for path in tensors} for part in (0, 1))
    if len(tensors) != len(names) * len(keys):
        raise LookupError("tensors of the optimiser are missing")
    for path, value in tensors.items():
        name, key = path.rsplit("/", 1)
        parameter = weights[name]
        # A fused optimiser counts its steps on the device, the others on the CPU.
        counter = torch.tensor(0.0, device=parameter.device if parameter.is_cuda else "cpu")
        # Same memory layout as the parameter: arithmetic in another order of elements may round differently.
        kept = torch.empty_like(counter if key == "step" else parameter).copy_(value)
        optimizer.state[parameter][key] = kept.detach()


class Average:
    """An exponential average of a module's parameters and buffers, updated after each step.

    The first update copies. Its tensors have the names that :class:`torch.optim.swa_utils.AveragedModel` gives them.
    """

    def __init__(self, module: nn.Module, *, decay: float) -> None:
        self.module = copy.deepcopy(module)
        self._decay, self._n = decay, 0
        pairs = list(zip(_tensors(self.module), _tensors(module), strict=True))
        self._floats = [pair for pair in pairs if pair[0].is_floating_point()]
        self._rest = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the module's tensors as they are now."""
        for pairs, is_float in ((self._floats, True), (self._rest, False)):
            if not pairs:
                continue
            mine, theirs = map(list, zip(*pairs, strict=True))
            if is_float and self._n:
                torch._foreach_lerp_(mine, theirs, 1 - self._decay)
            else:
                torch._foreach_copy_(mine, theirs)
        self._n += 1

    def state(self) -> dict[str, Tensor]:
        """Return every tensor by name."""
        named = {f"module.{name}": value for name, value in self.module.state_dict().items()}
        return {**named, "n_averaged": torch.tensor(self._n)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put back what :meth:`state` returned."""
        self._n = int(state["n_averaged"])
        put_state(self.module, {k.removeprefix("module."): v for k, v in state.items() if k != "n_averaged"})


def _tensors(module: nn.Module) -> list[Tensor]:
    return [t.detach() for t in (*module.parameters(), *module.buffers())]


def rng_states(device: torch.device) -> dict[str, Tensor]:
    """Return the states of torch's generators that training on a device draws from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_rng_states(device: torch.device, states: Mapping[str, Tensor]) -> None:
    """Put back what :func:`rng_states` returned; a run that goes on elsewhere draws anew there."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
    elif device.type == "mps" and "mps" in states:
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
