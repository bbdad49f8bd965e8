"""Signed activations of static int8, which PyTorch hands to XNNPACK where it hands unsigned ones to QNNPACK.

Both stand for the same numbers: the integers 0 to 255 with zero point z, and -128 to 127 with z - 128. PyTorch's engine
``qnnpack`` chooses the kernels by the type (``can_use_xnnp`` in ``aten/src/ATen/native/quantized/cpu/qconv.cpp``), on
a desk and in PyTorch Mobile since 1.12. XNNPACK's convolutions and sums take half of the instructions on ARM; now and
then they round to the neighbouring integer. It has no others here: what QNNPACK does quickly on unsigned integers, such
as pooling, PyTorch does one by one on signed ones. So each activation is what its users are quick on.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter

import torch
from torch import Tensor, fx, nn

from udacisense.stages.int8.costs import PRODUCTS, SUMS, cheapest_signed, in_float, module_of
from udacisense.stages.int8.sensitivity import sqnr_db
from udacisense.stages.int8.watched import MAPS, Grid, Watched

_SHIFT = 128
_ALIKE_DB = 10.0  # of each activation; rounding costs less, also of a noisy network; another computation more


def sign_activations(network: fx.GraphModule, example: Tensor) -> bool:
    """Make those activations of a static int8 network signed, in place, that take fewer instructions on ARM then.

    Args:
        network: what FX's conversion gave, for the engine that is chosen now.
        example: float32 (1, 3, H, W).

    Returns:
        Whether the network can be used: the kernels take it, each activation lies on the grid that it lay on and is the
        same but for rounding, alone and in a batch.
    """
    try:
        batch = torch.cat([example.flip(-1), example.flip(-2), example])
        before, before_in_batch = Watched.run_of(network, example), Watched.run_of(network, batch)
        _spread_operands(network, before)
        signed = cheapest_signed(network, before.shapes)
        _sign(network, before.grids, signed)
        after, after_in_batch = Watched.run_of(network, example), Watched.run_of(network, batch)
    except Exception:  # a kernel says by any exception that it does not take what it was given
        return False
    wanted = {node: _signed(grid) if node in signed else grid for node, grid in before.grids.items()}
    keeps_grids = all(after.grids.get(node) == grid for node, grid in wanted.items())
    return keeps_grids and _is_alike(before, after) and _is_alike(before_in_batch, after_in_batch)


def activation_type(network: nn.Module) -> str | None:
    """Return ``qint8`` where activations of a static int8 network are signed, ``quint8`` where none is; else None."""
    if not isinstance(network, fx.GraphModule):
        return None
    types = {node.args[3] for node in network.graph.nodes if node.target is torch.quantize_per_tensor}
    return str(torch.qint8 if torch.qint8 in types else torch.quint8).removeprefix("torch.")


def _is_alike(before: Watched, after: Watched) -> bool:
    """Tell whether activations differ by a step, or far less than they vary."""
    for node, numbers in before.samples.items():
        step, mean, now = before.grids[node][1], numbers.mean(), after.samples[node]
        if (now - numbers).square().mean() > step**2 and sqnr_db(numbers - mean, now - mean) < _ALIKE_DB:
            return False
    return sqnr_db(before.answer, after.answer) >= _ALIKE_DB


def _signed(grid: Grid) -> Grid:
    return torch.qint8, grid[1], grid[2] - _SHIFT


def _spread_operands(network: fx.GraphModule, watched: Watched) -> None:
    """Let sums and products be of maps of one size and layout, in place: a small operand, as a gate, is written out.

    The numbers are the same. PyTorch's kernels take a third of the instructions for it, and are right on signed ones. A
    parameter is written out too: it has one image's size, whatever the batch.
    """
    for node in [node for node in network.graph.nodes if node.target in (*SUMS, *PRODUCTS)]:
        shape = watched.shapes[node]
        operands = [one for one in node.all_input_nodes if one in watched.shapes]
        whole = next((one for one in operands if watched.shapes[one] == shape and one not in watched.constants), None)
        if whole is None or len(shape) != MAPS:
            continue
        for one in [one for one in operands if not watched.is_dense(one, shape)]:
            with network.graph.inserting_before(node):
                spread = network.graph.call_method("expand_as", (one, whole))
                maps = network.graph.call_method("contiguous", (spread,), {"memory_format": torch.channels_last})
            node.replace_input_with(one, maps)
            for new in (spread, maps):
                watched.grids[new], watched.shapes[new] = watched.grids[one], shape
    network.recompile()


def _sign(network: fx.GraphModule, grids: dict[fx.Node, Grid], signed: set[fx.Node]) -> None:
    shifted = set[str]()
    turned: dict[fx.Node, fx.Node] = {}
    for node in [node for node in network.graph.nodes if node in grids]:
        for one in [one for one in node.all_input_nodes if one in grids]:
            if (one in signed) != (node in signed):
                if one not in turned:  # its first user in the graph's order
                    turned[one] = _turned(one, node, _signed(grids[one]) if node in signed else grids[one])
                node.replace_input_with(one, turned[one])
        if node in signed and (function := in_float(network, node)):
            _compute_in_float(node, function, _signed(grids[node]))
        elif node in signed:
            _shift(network, node, shifted)
    network.recompile()


def _turned(given: fx.Node, user: fx.Node, grid: Grid) -> fx.Node:
    """Return what gives an activation on another grid to the node that uses it."""
    dtype, scale, zero_point = grid
    with user.graph.inserting_before(user):
        numbers = user.graph.call_method("dequantize", (given,))
        return user.graph.call_function(torch.quantize_per_tensor, (numbers, scale, zero_point, dtype))


def _compute_in_float(node: fx.Node, function: Callable[..., Tensor], grid: Grid) -> None:
    """Let a node quantise what a float32 function answers: what the table of unsigned integers was computed by."""
    with node.graph.inserting_before(node):
        numbers = node.graph.call_method("dequantize", (node.args[0],))
        answer = node.graph.call_function(function, (numbers,))
    dtype, scale, zero_point = grid
    node.op, node.target, node.kwargs = "call_function", torch.quantize_per_tensor, {}
    node.args = (answer, scale, zero_point, dtype)


def _shift(network: fx.GraphModule, node: fx.Node, shifted: set[str]) -> None:
    """Let a node answer signed integers, where it says itself on which grid it answers; others follow what they get."""
    if node.target is torch.quantize_per_tensor:
        node.args = (*node.args[:3], torch.qint8)
    module = module_of(network, node)
    for attribute in ("zero_point", "output_zero_point"):
        if hasattr(module, attribute) and f"{node.target}.{attribute}" not in shifted:
            shifted.add(f"{node.target}.{attribute}")
            setattr(module, attribute, getattr(module, attribute) - _SHIFT)
    for source in node.all_input_nodes:
        value = attrgetter(str(source.target))(network) if source.op == "get_attr" else None
        if isinstance(value, Tensor) and not value.is_floating_point() and str(source.target) not in shifted:
            shifted.add(str(source.target))
            value -= _SHIFT
