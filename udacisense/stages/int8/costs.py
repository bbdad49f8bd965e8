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
from torch.ao.nn.quantized import Conv2d, Hardswish
from torch.ao.nn.quantized.modules.utils import WeightedQuantizedModule

SUMS = (torch.ops.quantized.add, torch.ops.quantized.add_relu)
_MAPS = 4  # dimensions
PRODUCTS = (torch.ops.quantized.mul, torch.ops.quantized.mul_relu)
_CONVOLUTIONS = (torch.ops.quantized.conv2d, torch.ops.quantized.conv2d_relu)
# What XNNPACK saves of QNNPACK's instructions: a multiply-add, and beside these a convolution.
_SAVED_A_MAC, _SAVED_A_CONVOLUTION = 0.25, 20_000
# Of what is turned: dequantised, and quantised again.
_TURN, _TURN_AN_ELEMENT = 15_000, 5
# PyTorch computes one by one on signed integers what QNNPACK does by tables (sigmoid) or in vectors (pooling).
_LOST_AN_ELEMENT, _LOST_A_WINDOW = 40, 150
# By table on unsigned integers; float32 between signed ones is nearly as quick. Function, or module, to function.
_IN_FLOAT: dict[Any, Callable[..., Tensor]] = {
    torch.ops.quantized.hardswish: F.hardswish,
    Hardswish: F.hardswish,
    F.hardsigmoid: F.hardsigmoid,
    nn.Hardsigmoid: F.hardsigmoid,
}
_LOST_IN_FLOAT = 2
_WINDOWS = (F.max_pool2d, F.avg_pool2d, torch.max_pool2d, nn.MaxPool2d, nn.AvgPool2d)
_FREE = (
    *(*SUMS, *PRODUCTS, torch.ops.quantized.cat, torch.cat, torch.quantize_per_tensor, torch.flatten, torch.chunk),
    *(torch.split, torch.relu, getattr, F.relu, F.relu6, F.adaptive_avg_pool2d, F.dropout),
)
_FREE_NAMES = (
    *("flatten", "reshape", "view", "permute", "transpose", "contiguous", "expand_as", "mean", "chunk", "split"),
    *("relu", "getitem"),
)
_FREE_MODULES = (nn.Identity, nn.Dropout, nn.Flatten, nn.AdaptiveAvgPool2d, nn.ReLU, nn.ReLU6)


def cheapest_signed(network: fx.GraphModule, shapes: Mapping[fx.Node, torch.Size]) -> set[fx.Node]:
    """Return the nodes whose activations are signed in the cheapest choice; those of :func:`is_unsigned` never are.

    Args:
        network: static int8, of unsigned activations.
        shapes: of each activation that is quantised, and nothing else.
    """
    graph = nx.DiGraph()
    graph.add_nodes_from(("signed", "unsigned"))
    calls: dict[str, fx.Node] = {}
    for node, shape in shapes.items():
        if is_unsigned(network, node, shapes):
            graph.add_edge(node, "unsigned")  # without a capacity: it is never cut
        else:
            graph.add_edge(node, "unsigned", capacity=_lost(network, node, shape.numel()))
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


def is_unsigned(network: fx.GraphModule, node: fx.Node, shapes: Mapping[fx.Node, torch.Size]) -> bool:
    """Tell whether signed activations would be refused, or computed wrongly.

    XNNPACK's linear layers take one weight scale a tensor, and ours have one a channel; convolutions of one, three or
    transposed dimensions it does not have. PyTorch hands it sums and products of several sizes in the wrong order, and
    products of several layouts.
    """
    if node.target in (*SUMS, *PRODUCTS):
        is_mixed = any(shapes.get(one, shapes[node]) != shapes[node] for one in node.all_input_nodes)
        return is_mixed or (node.target in PRODUCTS and len(shapes[node]) != _MAPS)
    if _is_convolution(network, node):
        return False
    name = getattr(node.target, "__name__", "")
    is_function = node.op == "call_function" and name.startswith(("quantized.linear", "quantized.conv"))
    return is_function or isinstance(module_of(network, node), WeightedQuantizedModule)


def in_float(network: fx.GraphModule, node: fx.Node) -> Callable[..., Tensor] | None:
    """Return the float32 function of a node that is computed in it where its activation is signed, else None."""
    return _IN_FLOAT.get(node.target if node.op == "call_function" else type(module_of(network, node)))


def _is_convolution(network: fx.GraphModule, node: fx.Node) -> bool:
    return node.target in _CONVOLUTIONS or isinstance(module_of(network, node), Conv2d)


def _saved(network: fx.GraphModule, node: fx.Node, size: int) -> float:
    """Return the instructions that a node saves by being signed."""
    module = module_of(network, node)
    if not isinstance(module, Conv2d):
        return _SAVED_A_CONVOLUTION if _is_convolution(network, node) else 0
    macs: int = size * cast("Any", module).weight()[0].numel()
    return _SAVED_A_CONVOLUTION + _SAVED_A_MAC * macs


def _lost(network: fx.GraphModule, node: fx.Node, size: int) -> float:
    """Return the instructions that a node costs more by being signed."""
    module = module_of(network, node)
    if node.target in _WINDOWS or isinstance(module, _WINDOWS[3:]):
        return _LOST_A_WINDOW * size
    if in_float(network, node):
        return _LOST_IN_FLOAT * size
    name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
    is_free = node.target in _FREE or name in _FREE_NAMES or isinstance(module, _FREE_MODULES)
    return 0 if is_free or _is_convolution(network, node) else _LOST_AN_ELEMENT * size
