"""Which activations of a static int8 network are signed: the choice that takes the fewest instructions on ARM.

Signed activations save instructions in a convolution and cost some in most other operations, and so does turning an
activation from one to the other for its users. The cheapest choice is a minimum cut (Ford and Fulkerson 1956, "Maximal
Flow Through a Network") of a graph whose edges are these costs.

They were counted with the library of PyTorch Mobile 1.12.2 (cortex-a76), an operation at a time
(``tests/campaigns/int8_costs.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import networkx as nx
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.ao.nn.quantized import Conv2d
from torch.ao.nn.quantized.modules.utils import WeightedQuantizedModule

from udacisense.stages.int8.watched import MAPS

SUMS = (torch.ops.quantized.add, torch.ops.quantized.add_relu)
PRODUCTS = (torch.ops.quantized.mul, torch.ops.quantized.mul_relu)
_CONVOLUTIONS = (torch.ops.quantized.conv2d, torch.ops.quantized.conv2d_relu)
# What XNNPACK saves of QNNPACK's instructions: a multiply-add, and beside these a convolution.
_SAVED_A_MAC, _SAVED_A_CONVOLUTION = 0.25, 20_000
# Of what is turned: dequantised, and quantised again.
_TURN, _TURN_AN_ELEMENT = 15_000, 5
# QNNPACK has a table or vectors for these, on unsigned integers alone: what signed ones cost more, by an element and a
# place of a window. Whatever is not here costs the same on both. Maxima are taken of 32 channels at once, and of the
# rest one by one.
_LOST_AN_ELEMENT = {"hardswish": 2, "hardsigmoid": 2, "sigmoid": 76, "tanh": 164}
# Computed in float32 between signed integers, which is nearly as quick as the table (signed: 40 an element more).
_IN_FLOAT: dict[str, Callable[..., Tensor]] = {"hardswish": F.hardswish, "hardsigmoid": F.hardsigmoid}
_LOST_A_PLACE = {"maxpool2d": 17, "avgpool2d": 16}
_AT_ONCE, _LOST_A_PLACE_AT_ONCE = 32, 1.7


def cheapest_signed(network: fx.GraphModule, shapes: Mapping[fx.Node, torch.Size]) -> set[fx.Node]:
    """Return the nodes whose activations are signed in the cheapest choice; those of :func:`_is_unsigned` never are.

    Args:
        network: static int8, of unsigned activations.
        shapes: of each activation that is quantised, and nothing else.
    """
    graph = nx.DiGraph()
    graph.add_nodes_from(("signed", "unsigned"))
    calls: dict[str, fx.Node] = {}
    for node, shape in shapes.items():
        if _is_unsigned(network, node, shapes):
            graph.add_edge(node, "unsigned")  # without a capacity: it is never cut
        else:
            graph.add_edge(node, "unsigned", capacity=_lost(network, node, shape))
            graph.add_edge("signed", node, capacity=_saved(network, node, shape.numel()))
        first = calls.setdefault(str(node.target), node) if node.op == "call_module" else node
        if first is not node:  # a module that is called twice has one zero point
            graph.add_edges_from(((node, first), (first, node)))
        users = [user for user in node.users if user in shapes]
        if users:
            turn = _TURN + _TURN_AN_ELEMENT * shape.numel()
            graph.add_edge((node, "turned signed"), node, capacity=turn)
            graph.add_edge(node, (node, "turned unsigned"), capacity=turn)
        for user in users:
            graph.add_edge(user, (node, "turned signed"))
            graph.add_edge((node, "turned unsigned"), user)
    return set(nx.minimum_cut(graph, "signed", "unsigned")[1][0]) & shapes.keys()


def module_of(network: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """Return the module that a node calls, if it calls one."""
    return network.get_submodule(str(node.target)) if node.op == "call_module" else None


def _is_unsigned(network: fx.GraphModule, node: fx.Node, shapes: Mapping[fx.Node, torch.Size]) -> bool:
    """Tell whether signed activations would be refused, or computed wrongly.

    XNNPACK's linear layers take one weight scale a tensor, and ours have one a channel; convolutions of one, three or
    transposed dimensions it does not have. PyTorch hands it sums and products of several sizes in the wrong order, and
    products of several layouts.
    """
    if node.target in (*SUMS, *PRODUCTS):
        is_mixed = any(shapes.get(one, shapes[node]) != shapes[node] for one in node.all_input_nodes)
        return is_mixed or (node.target in PRODUCTS and len(shapes[node]) != MAPS)
    if _is_convolution(network, node):
        return False
    name = getattr(node.target, "__name__", "")
    is_function = node.op == "call_function" and name.startswith(("quantized.linear", "quantized.conv"))
    return is_function or isinstance(module_of(network, node), WeightedQuantizedModule)


def in_float(network: fx.GraphModule, node: fx.Node) -> Callable[..., Tensor] | None:
    """Return the float32 function of a node that is computed in it where its activation is signed, else None."""
    return _IN_FLOAT.get(_kind(network, node))


def _kind(network: fx.GraphModule, node: fx.Node) -> str:
    """Return one name of an operation as module, function and method: max_pool2d and MaxPool2d are maxpool2d."""
    module = module_of(network, node)
    name = type(module).__name__ if module else str(getattr(node.target, "__name__", node.target))
    return name.removeprefix("quantized.").replace("_", "").lower()


def _is_convolution(network: fx.GraphModule, node: fx.Node) -> bool:
    return node.target in _CONVOLUTIONS or isinstance(module_of(network, node), Conv2d)


def _saved(network: fx.GraphModule, node: fx.Node, size: int) -> float:
    """Return the instructions that a node saves by being signed."""
    module = module_of(network, node)
    if not isinstance(module, Conv2d):
        return _SAVED_A_CONVOLUTION if _is_convolution(network, node) else 0
    macs: int = size * cast("Any", module).weight()[0].numel()
    return _SAVED_A_CONVOLUTION + _SAVED_A_MAC * macs


def _lost(network: fx.GraphModule, node: fx.Node, shape: torch.Size) -> float:
    """Return the instructions that a node costs more by being signed."""
    module, kind = module_of(network, node), _kind(network, node)
    if kind not in _LOST_A_PLACE:
        return _LOST_AN_ELEMENT.get(kind, 0) * shape.numel()
    window: Any = module.kernel_size if module else [*node.args[1:], node.kwargs.get("kernel_size")][0]
    (height, width), channels = window if isinstance(window, tuple | list) else (window, window), shape[-3]
    single = channels % _AT_ONCE / channels if kind == "maxpool2d" else 1.0
    lost = single * _LOST_A_PLACE[kind] + (1 - single) * _LOST_A_PLACE_AT_ONCE
    return float(lost * height * width * shape.numel())
