"""What a network costs before it is trained, and the limits that it has to keep."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch import Tensor, nn

from udacisense.base.records import Count, ModelSpec, record
from udacisense.measure.counts import count_macs, count_parameters
from udacisense.measure.metrics import inference, state_bytes
from udacisense.models.build import build_model
from udacisense.models.layers import Resize
from udacisense.stages.graph import trace_and_freeze

# Instructions of a part (of a million, where it is counted in millions) in PyTorch Mobile 1.12.2's library for arm64,
# fitted to 29 counted networks by tests/campaigns/instructions_fit.py: half of the estimates lie within 2.3 %, nine in
# ten within 10.7 %, and all within 15.7 %.
FACTORS = {
    "call": 4.029e4,
    "convolutions": 5.575e4,
    "dense": 5.002e5,
    "depthwise": 1.19e6,
    "maps": 8.371e6,
    "resize": 1.38e8,
}
PARTS = tuple(FACTORS)


@record
class Cost:
    """What a network costs."""

    parameters: Count
    file_bytes: Count  # of its frozen float32 TorchScript
    macs: Count  # of one image
    arm_instructions: Count  # of one call as plain .ptl, estimated by :func:`estimate_instructions`


@record
class Limits:
    """What a network may cost; None: whatever it likes."""

    parameters: Count | None
    file_bytes: Count | None
    arm_instructions: Count | None

    def broken(self, cost: Cost) -> str | None:
        """Return which limit a cost breaks, in words; None where it keeps all of them."""
        for name, words in (("parameters", ""), ("file_bytes", " bytes"), ("arm_instructions", " ARM instructions")):
            limit, found = getattr(self, name), getattr(cost, name)
            if limit is not None and found > limit:
                return f"{found:,}{words or ' parameters'}, at most {limit:,}"
        return None


def cost_of(spec: ModelSpec, input_shape: tuple[int, ...]) -> Cost:
    """Build a network, untrained, and return what it costs.

    Raises:
        InputError: it cannot be built.
    """
    with torch.random.fork_rng([]):
        model = build_model(spec).eval()
    return Cost(
        parameters=count_parameters(model),
        file_bytes=state_bytes(trace_and_freeze(model, torch.zeros(input_shape))),
        macs=count_macs(model, input_shape),
        arm_instructions=estimate_instructions(model, input_shape),
    )


def work_by_part(model: nn.Module, input_shape: tuple[int, ...]) -> tuple[float, ...]:
    """Return what one call of a network consists of, in the order of :data:`PARTS`.

    Calls (1), convolutions and linear layers (how many), multiply-adds of dense and of depthwise ones, values of all
    their maps, and values that a resize makes; the last four in millions.
    """
    found = dict.fromkeys(PARTS, 0.0)
    found["call"] = 1.0

    def see(module: nn.Module, _: tuple[Tensor, ...], answer: Tensor) -> None:
        if isinstance(module, Resize):
            found["resize"] += answer.numel() / 1e6
            return
        assert isinstance(module, nn.Conv2d | nn.Linear)
        is_depthwise = isinstance(module, nn.Conv2d) and module.groups > 1
        a_value = module.weight[0].numel()  # multiply-adds of one value of the map
        found["convolutions"] += 1
        found["depthwise" if is_depthwise else "dense"] += answer.numel() * a_value / 1e6
        found["maps"] += answer.numel() / 1e6

    watched = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear | Resize)]
    with ExitStack() as hooks, inference(model):
        for module in watched:
            hooks.enter_context(module.register_forward_hook(see))
        model(torch.zeros(input_shape))
    return tuple(found[part] for part in PARTS)


def estimate_instructions(model: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Estimate the ARM instructions of one call as plain ``.ptl``, by what counted networks took (:data:`FACTORS`)."""
    work = work_by_part(model, input_shape)
    return round(sum(FACTORS[part] * amount for part, amount in zip(PARTS, work, strict=True)))
