"""Signed activations of static int8, which PyTorch hands to XNNPACK where it hands unsigned ones to QNNPACK.

Both stand for the same numbers: the integers 0 to 255 with zero point z, and -128 to 127 with z - 128. PyTorch's engine
``qnnpack`` chooses the kernels by the type (``can_use_xnnp`` in ``aten/src/ATen/native/quantized/cpu/qconv.cpp``), on
a desk and in PyTorch Mobile since 1.12. XNNPACK's convolutions and sums take half of the instructions on ARM; now and
then they round to the neighbouring integer. It has no others here: what QNNPACK does quickly on unsigned integers, such
as Hardswish by a table, PyTorch does one by one on signed ones.
"""

from __future__ import annotations

import operator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.ao.nn.quantized import Conv2d
from torch.ao.nn.quantized.modules.utils import WeightedQuantizedModule

from udacisense.stages.int8.sensitivity import sqnr_db

_SHIFT = 128
# ARM instructions, counted of the models that ship with the library of PyTorch Mobile 1.12.2 (cortex-a76): what XNNPACK
# saves of QNNPACK's a multiply-add of a convolution, and what any other operation costs more an element.
_SAVED_A_MAC, _LOST_AN_ELEMENT = 0.37, 33.0
_ALIKE_DB = 30.0  # of the answers; rounding costs less, a kernel that computes something else more
_CONVOLUTIONS = (torch.ops.quantized.conv2d, torch.ops.quantized.conv2d_relu)
_SUMS = (torch.ops.quantized.add, torch.ops.quantized.add_relu)
_PRODUCTS = (torch.ops.quantized.mul, torch.ops.quantized.mul_relu)
# Those compute nothing, or on next to nothing.
_FREE = (torch.quantize_per_tensor, torch.flatten, operator.getitem, F.adaptive_avg_pool2d, F.dropout)
_FREE_METHODS = ("flatten", "reshape", "view", "permute", "transpose", "contiguous", "squeeze", "mean")
_FREE_MODULES = (nn.Identity, nn.Dropout, nn.Flatten, nn.AdaptiveAvgPool2d)
_Grid = tuple[torch.dtype, float, int]  # integer type, scale, zero point


def sign_activations(network: fx.GraphModule, example: Tensor) -> bool:
    """Make the activations of a static int8 network signed, in place, where that takes fewer instructions on ARM.

    XNNPACK's linear layers take one weight scale a tensor, and ours have one a channel. So they stay unsigned, and with
    them what computes on their answers.

    Args:
        network: what FX's conversion gave, for the engine that is chosen now.
        example: float32 (1, 3, H, W).

    Returns:
        Whether the network can be used: it is as it was, or it is signed, the kernels take it, each activation lies on
        the grid that it lay on, and the example gets the same answer.
    """
    try:
        before = _Watched.run_of(network, example)
        if not before.saves():
            return True
        signed = _sign(network, before.grids)
        after = _Watched.run_of(network, example)
    except Exception:  # a kernel says by any exception that it does not take what it was given
        return False
    wanted = {node: _signed(grid) if node in signed else grid for node, grid in before.grids.items()}
    keeps_grids = all(after.grids.get(node) == grid for node, grid in wanted.items())
    return keeps_grids and sqnr_db(before.answer, after.answer) >= _ALIKE_DB


def activation_type(network: nn.Module) -> str | None:
    """Return ``qint8`` where activations of a static int8 network are signed, ``quint8`` where none is; else None."""
    if not isinstance(network, fx.GraphModule):
        return None
    types = {node.args[3] for node in network.graph.nodes if node.target is torch.quantize_per_tensor}
    return str(torch.qint8 if torch.qint8 in types else torch.quint8).removeprefix("torch.")


class _Watched(fx.Interpreter):
    """Runs a network; keeps on which grid each of its quantised activations lies, and how many numbers it has."""

    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(network)
        self.network = network
        self.answer = torch.empty(0)
        self.grids: dict[fx.Node, _Grid] = {}
        self.sizes: dict[fx.Node, int] = {}

    @classmethod
    def run_of(cls, network: fx.GraphModule, example: Tensor) -> _Watched:
        watched = cls(network)
        with torch.no_grad():
            watched.answer = watched.run(example)
        return watched

    def run_node(self, n: fx.Node) -> Any:
        answer = super().run_node(n)
        if isinstance(answer, Tensor) and answer.is_quantized and answer.qscheme() == torch.per_tensor_affine:
            self.grids[n], self.sizes[n] = (answer.dtype, answer.q_scale(), answer.q_zero_point()), answer.numel()
        return answer

    def saves(self) -> bool:
        """Tell whether signed activations take fewer instructions, and no sum or product is of maps of several sizes.

        PyTorch hands XNNPACK the sizes of such maps in the wrong order, and the answers are wrong.
        """
        saved = 0.0
        for node, size in self.sizes.items():
            module = _module(self.network, node)
            if node.target in (*_SUMS, *_PRODUCTS) and any(
                self.sizes.get(one, size) != size for one in node.all_input_nodes
            ):
                return False
            if isinstance(module, Conv2d):
                saved += _SAVED_A_MAC * size * cast("Any", module).weight()[0].numel()
            elif not (_is_unsigned_layer(self.network, node) or _is_free(node, module)):
                saved -= _LOST_AN_ELEMENT * size
        return saved > 0


def _signed(grid: _Grid) -> _Grid:
    return torch.qint8, grid[1], grid[2] - _SHIFT


def _sign(network: fx.GraphModule, grids: dict[fx.Node, _Grid]) -> set[fx.Node]:
    """Return the activations that are signed now."""
    signed, shifted = set[fx.Node](), set[str]()
    for node in [node for node in network.graph.nodes if node in grids]:
        given = [one for one in node.all_input_nodes if one in grids]
        if not given:
            is_signed = not all(_is_unsigned_layer(network, user) for user in node.users)
        elif _is_convolution(network, node):
            is_signed = True
        else:
            is_signed = not _is_unsigned_layer(network, node) and any(one in signed for one in given)
        for one in given:
            if (one in signed) != is_signed:
                node.replace_input_with(one, _turned(one, node, _signed(grids[one]) if is_signed else grids[one]))
        if is_signed:
            signed.add(node)
            _shift(network, node, shifted)
    network.recompile()
    return signed


def _module(network: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return network.get_submodule(str(node.target)) if node.op == "call_module" else None


def _is_free(node: fx.Node, module: nn.Module | None) -> bool:
    """Tell whether a node costs the same either way: it computes next to nothing, or XNNPACK has a kernel for it."""
    if node.op == "call_method":
        return node.target in _FREE_METHODS
    return node.target in (*_SUMS, *_FREE) or isinstance(module, _FREE_MODULES)


def _is_convolution(network: fx.GraphModule, node: fx.Node) -> bool:
    return node.target in _CONVOLUTIONS or isinstance(_module(network, node), Conv2d)


def _is_unsigned_layer(network: fx.GraphModule, node: fx.Node) -> bool:
    """Tell whether a node is a layer that XNNPACK does not run: linear, or of one, three or transposed dimensions."""
    if _is_convolution(network, node):
        return False
    name = getattr(node.target, "__name__", "")
    is_function = node.op == "call_function" and name.startswith(("quantized.linear", "quantized.conv"))
    return is_function or isinstance(_module(network, node), WeightedQuantizedModule)


def _turned(given: fx.Node, user: fx.Node, grid: _Grid) -> fx.Node:
    """Return what gives an activation on another grid to the node that uses it."""
    dtype, scale, zero_point = grid
    with user.graph.inserting_before(user):
        numbers = user.graph.call_method("dequantize", (given,))
        return user.graph.call_function(torch.quantize_per_tensor, (numbers, scale, zero_point, dtype))


def _shift(network: fx.GraphModule, node: fx.Node, shifted: set[str]) -> None:
    """Let a node answer signed integers, where it says itself on which grid it answers; others follow what they get."""
    if node.target is torch.quantize_per_tensor:
        node.args = (*node.args[:3], torch.qint8)
    module = _module(network, node)
    for attribute in ("zero_point", "output_zero_point"):
        if hasattr(module, attribute) and f"{node.target}.{attribute}" not in shifted:
            shifted.add(f"{node.target}.{attribute}")
            setattr(module, attribute, getattr(module, attribute) - _SHIFT)
    for source in node.all_input_nodes:
        value = getattr(network, str(source.target)) if source.op == "get_attr" else None
        if isinstance(value, Tensor) and not value.is_floating_point() and str(source.target) not in shifted:
            shifted.add(str(source.target))
            value -= _SHIFT
