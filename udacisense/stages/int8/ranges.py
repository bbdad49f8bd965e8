"""The range of an activation by what it does to the network's answers.

A histogram's range leaves the least error in the activation itself, all its channels alike. The answers may hang on
small values of one channel: behind the first convolution of a MobileNetV3 a range a quarter as wide, which cuts large
values, left a fortieth of the noise in the logits. So the few activations that cost the logits most are given the ends
that cost them least (Nahshan et al. 2021, "Loss Aware Post-Training Quantization"; here one activation at a time).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, fx, nn
from torch.ao.quantization import FixedQParamsObserver

from udacisense.stages.contract import copy_of, replace_modules
from udacisense.stages.int8.rounding import RoundedActivation

_MOST = 8  # activations, each of which makes
_SHARE = 0.03  # of all noise or more
_SHARES_OF_AN_END = tuple(1.25 * 0.75**step for step in range(8))
_RANKED_ON, _FITTED_ON, _AT_ONCE = 8, 32, 16  # images


class _Switch(RoundedActivation):
    """Rounds while it is on, and else lets values pass."""

    is_on = False

    def forward(self, values: Tensor) -> Tensor:
        return super().forward(values) if self.is_on else values

    def between(self, low: float, high: float) -> tuple[float, int, int, int]:
        """Return the numbers of a range."""
        first, last = self.numbers[2:]
        scale = max((high - low) / (last - first), 1e-9)
        return scale, min(max(round(first - low / scale), first), last), first, last

    @property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest value."""
        scale, zero, first, last = self.numbers
        return scale * (first - zero), scale * (last - zero)


def fitted_ranges(prepared: fx.GraphModule, images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Return better ranges of the activations that cost the logits most.

    Args:
        prepared: as FX prepares it, its observers fixed to the calibrated numbers; it stays as it is.
        images: float32 (n, 3, H, W), normalised; the first 32 are taken.
        names: of the observers whose range is free.

    Returns:
        ``<observer>`` → float64 (2,), scale and zero point, where another range than the calibrated one is better.
    """
    network = copy_of(prepared)
    switches = {name: _Switch(network.get_submodule(name)) for name in names}
    places: dict[nn.Module, nn.Module] = {network.get_submodule(name): switch for name, switch in switches.items()}
    others = [m for m in network.modules() if isinstance(m, FixedQParamsObserver) and m not in places]
    replace_modules(network, places | {observer: nn.Identity() for observer in others})
    noise = _noise(network, images[:_RANKED_ON])
    alone = {name: noise(switch) for name, switch in switches.items()}
    worst = sorted(alone, key=alone.__getitem__, reverse=True)[:_MOST]
    noise = _noise(network, images[:_FITTED_ON])
    found = {}
    for name in worst:
        if alone[name] >= _SHARE * sum(alone.values()):
            switch, before = switches[name], switches[name].numbers
            _narrow(switch, noise)
            if switch.numbers != before:
                found[name] = torch.tensor(switch.numbers[:2], dtype=torch.float64)
    return found


def _noise(network: nn.Module, images: Tensor) -> Callable[[_Switch], float]:
    """Return what measures the squared error of the logits while one activation alone is rounded."""

    def answers() -> Tensor:
        return torch.cat([network(batch) for batch in torch.split(images, _AT_ONCE)]).double()

    expected = answers()

    def measured(switch: _Switch) -> float:
        switch.is_on = True
        error = float((answers() - expected).square().sum())
        switch.is_on = False
        return error

    return measured


def _narrow(switch: _Switch, noise: Callable[[_Switch], float]) -> None:
    """Give an activation the ends, one after the other, that leave the least noise."""
    best = noise(switch), switch.numbers
    low, high = switch.ends
    for end in ("high", "low") if low < 0 < high else ("high",) if high > 0 else ("low",):
        low, high = switch.ends
        for share in _SHARES_OF_AN_END:
            switch.numbers = switch.between(low, high * share) if end == "high" else switch.between(low * share, high)
            best = min(best, (noise(switch), switch.numbers))
        switch.numbers = best[1]
