"""Tests for udacisense.stages.int8.signed."""

from __future__ import annotations

import operator
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from udacisense.base.tensors import supported_engines
from udacisense.stages.int8.signed import activation_type, sign_activations
from udacisense.stages.quantize import quantized_engine
from udacisense.stages.static import SIGNED_BY, calibrate, static_int8

pytestmark = pytest.mark.skipif(SIGNED_BY not in supported_engines(), reason=f"this PyTorch has no {SIGNED_BY}")
IMAGES = torch.randn(24, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def conv(inputs: int, outputs: int, *after: nn.Module, groups: int = 1) -> nn.Sequential:
    """A convolution with BatchNorm, and what follows."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, groups=groups, bias=False), nn.BatchNorm2d(outputs), *after
    )


class Branched(nn.Module):
    """Convolutions, a residual sum, and linear layers whose answer becomes maps again."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16, nn.ReLU())
        self.depthwise = conv(16, 16, nn.ReLU(), groups=16)
        self.branch = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4096)
        )
        self.last = conv(16, 16)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        maps = maps + self.depthwise(maps)
        return self.head(self.last(maps + self.branch(maps).reshape(-1, 16, 16, 16)) + maps)


NETWORKS = {
    "sums": lambda: nn.Sequential(
        conv(3, 16, nn.ReLU()), conv(16, 16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)
    ),
    "linear layers between maps": Branched,
}


def packed(model: nn.Module, *, signed: bool) -> tuple[Tensor, str | None]:
    """Return what a model's static int8 answers, and the type of its activations."""
    recipe = calibrate(model, SIGNED_BY, [IMAGES], method="histogram")
    network = static_int8(model, SIGNED_BY, example=IMAGES[:1], activations=recipe, signed=signed)
    with torch.no_grad(), quantized_engine(SIGNED_BY):
        return network(IMAGES), activation_type(network)


@pytest.mark.parametrize("name", NETWORKS)
def test_signed_activations_stand_for_the_same_numbers(name: str) -> None:
    torch.manual_seed(0)
    model = NETWORKS[name]().eval()
    unsigned, signed = packed(model, signed=False), packed(model, signed=True)
    assert (unsigned[1], signed[1]) == ("quint8", "qint8")
    step = unsigned[0].unique().diff().min()  # of the last quantiser
    assert (unsigned[0] - signed[0]).abs().max() <= 3 * step
    assert unsigned[0].std() > 5 * step, "answers that are all alike would show nothing"


class Gated(nn.Module):
    """Squeeze-and-excitation between convolutions; the gate may be added instead."""

    def __init__(self, operation: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.operation = operation
        self.first, self.last, self.pool = conv(3, 16, nn.ReLU()), conv(16, 16), nn.AdaptiveAvgPool2d(1)
        self.gate = nn.Sequential(nn.Conv2d(16, 4, 1), nn.ReLU(), nn.Conv2d(4, 16, 1), nn.Hardsigmoid())

    def forward(self, images: Tensor) -> Tensor:
        maps = self.first(images)
        return self.pool(self.last(self.operation(self.gate(self.pool(maps)), maps))).flatten(1)


@pytest.mark.parametrize("operation", [operator.add, operator.mul])
def test_maps_of_several_sizes_stay_right(operation: Callable[[Tensor, Tensor], Tensor]) -> None:
    """PyTorch's signed kernels add and multiply such maps wrongly."""
    torch.manual_seed(0)
    model = Gated(operation).eval()
    unsigned, signed = packed(model, signed=False), packed(model, signed=True)
    assert signed[1] == "qint8"
    assert (signed[0] - unsigned[0]).abs().max() <= 0.02 * unsigned[0].std()


def test_each_operation_has_the_integers_that_it_is_quick_on() -> None:
    """XNNPACK convolves signed integers; pooling and linear layers stay QNNPACK's, of unsigned ones."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(conv(3, 32, nn.Hardswish(), nn.AvgPool2d(2)), conv(32, 32, nn.Hardswish()), conv(32, 8)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
    )
    recipe = calibrate(model.eval(), SIGNED_BY, [IMAGES], method="histogram")
    network = static_int8(model, SIGNED_BY, example=IMAGES[:1], activations=recipe, signed=True)
    given: dict[str, set[torch.dtype]] = {}

    def see(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        given.setdefault(type(module).__name__, set()).add(inputs[0].dtype)

    for module in network.modules():
        module.register_forward_pre_hook(see)
    with torch.no_grad(), quantized_engine(SIGNED_BY):
        answer = network(IMAGES)
    assert given["Conv2d"] == {torch.qint8}
    assert given["AvgPool2d"] == given["Linear"] == {torch.quint8}
    assert (packed(model, signed=False)[0] - answer).abs().max() <= 0.05 * answer.std()


@pytest.mark.parametrize("activation", [nn.Hardswish(), nn.Hardsigmoid(), F.hardswish, F.hardsigmoid])
def test_what_float32_computes_between_signed_integers_is_what_the_table_has(
    activation: Callable[[Tensor], Tensor],
) -> None:
    class Activated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 256, 3)
            self.activation = activation

        def forward(self, images: Tensor) -> Tensor:
            return self.activation(self.conv(images)).flatten(1)

    torch.manual_seed(0)
    model = Activated().eval()
    unsigned, signed = packed(model, signed=False), packed(model, signed=True)
    assert (unsigned[1], signed[1]) == ("quint8", "qint8")
    step = unsigned[0].unique().diff().min()
    assert ((unsigned[0] - signed[0]).abs() > 0.5 * step).float().mean() < 0.02, "but where XNNPACK rounds otherwise"


def test_a_network_without_convolutions_stays_unsigned() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 8), nn.Hardswish(), nn.Linear(8, 4))
    assert packed(model.eval(), signed=True)[1] == "quint8"


class Scaled(nn.Module):
    """Maps by a parameter that lies in a block; by one of their own size; and a gate on a parameter."""

    def __init__(self, operation: Callable[[Tensor, Tensor, Tensor], Tensor], size: tuple[int, ...]) -> None:
        super().__init__()
        self.operation = operation
        self.first, self.last, self.gate = conv(3, 8, nn.ReLU()), conv(8, 8), nn.Conv2d(8, 8, 1)
        self.block = nn.Module()
        self.block.scale = nn.Parameter(torch.randn(size))
        self.head = nn.Linear(8 * 16 * 16, 4)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.first(images)
        gate = self.gate(maps.mean((2, 3), keepdim=True))
        return self.head(self.last(self.operation(maps, self.block.scale, gate)).flatten(1))


OPERANDS: dict[str, tuple[Callable[[Tensor, Tensor, Tensor], Tensor], tuple[int, ...]]] = {
    "a parameter of the channels": (lambda maps, scale, _: maps * scale, (8, 1, 1)),
    "a parameter of the maps": (lambda maps, scale, _: maps * scale, (1, 8, 16, 16)),
    "a sum with a parameter of the maps": (lambda maps, scale, _: scale + maps, (1, 8, 16, 16)),
    "a gate on a parameter": (lambda maps, scale, gate: maps + scale * gate, (1, 8, 16, 16)),
    "a gate of places by a gate of channels": (lambda maps, scale, gate: maps + maps[:, :1] * gate * scale, (8, 1, 1)),
    "rows by channels last": (lambda maps, scale, _: maps * maps.flatten(1).reshape(-1, 8, 16, 16) * scale, (1,)),
    "some channels by others": (lambda maps, scale, _: maps * maps.flip(1)[:, :8] * scale, (8, 1, 1)),
}


@pytest.mark.parametrize("name", OPERANDS)
def test_operands_of_any_size_and_layout_are_right_in_any_batch(name: str) -> None:
    torch.manual_seed(0)
    model = Scaled(*OPERANDS[name]).eval()
    unsigned, signed = packed(model, signed=False), packed(model, signed=True)
    assert signed[1] == "qint8"
    assert (signed[0] - unsigned[0]).abs().max() <= 0.05 * unsigned[0].std()


class Beside(nn.Module):
    """Convolutions that the answer hardly hangs on, beside others."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = conv(3, 8, nn.ReLU()), conv(8, 8)
        self.second, self.third = conv(8, 8, nn.ReLU()), conv(8, 8)
        self.head, self.small = nn.Linear(8 * 16 * 16, 4), nn.Linear(8 * 16 * 16, 4)
        with torch.no_grad():
            self.small.weight *= 0.005

    def forward(self, images: Tensor) -> Tensor:
        maps = self.first(images)
        return self.head(self.last(maps).flatten(1)) + self.small(self.third(self.second(maps)).flatten(1))


def turned_if_signed(maps: Tensor) -> Tensor:
    """Compute something else on signed integers, as some of PyTorch's kernels do."""
    return maps.flip(3) if maps.dtype == torch.qint8 else maps


@pytest.mark.parametrize("operation", [turned_if_signed, Tensor.contiguous])
def test_another_computation_is_noticed_where_the_answer_hardly_hangs_on_it(
    operation: Callable[[Tensor], Tensor],
) -> None:
    torch.manual_seed(0)
    model = Beside().eval()
    recipe = calibrate(model, SIGNED_BY, [IMAGES], method="histogram")
    network = static_int8(model, SIGNED_BY, example=IMAGES[:1], activations=recipe)
    (maps,) = network.graph.find_nodes(op="call_module", target="second.0")
    with network.graph.inserting_after(maps):
        other = network.graph.call_function(operation, (maps,))
    maps.replace_all_uses_with(other, delete_user_cb=lambda user: user is not other)
    network.recompile()
    with torch.no_grad(), quantized_engine(SIGNED_BY):
        assert sign_activations(network, IMAGES[:1]) == (operation is not turned_if_signed)
