"""Static int8 as PyTorch's kernels for QNNPACK compute it rightly, on a desk and in PyTorch Mobile 1.12.

A clamp, such as ReLU6, mixes up the numbers of maps that lie with channels last: it writes them as they lay, and says
that they lie in rows (``qnnpack_clamp`` in ``aten/src/ATen/native/quantized/cpu/qclamp.cpp``). PyTorch Mobile has no
dropout of quantised numbers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from udacisense.stages.int8.watched import Watched

_FUNCTIONS = (torch.clamp, torch.clip, F.relu6, F.hardtanh, F.hardtanh_, torch.ops.quantized.relu6)
_METHODS = ("clamp", "clamp_", "clip", "clip_")
_MODULES = (nn.ReLU6, nn.Hardtanh, torch.ao.nn.quantized.ReLU6)
_TO_ROWS, _FROM_ROWS = (0, 2, 3, 1), (0, 3, 1, 2)


def fit_kernels(network: fx.GraphModule, example: Tensor) -> fx.GraphModule:
    """Let each clamp of quantised maps see them as rows, channels last, and drop dropout, in place; return the network.

    Args:
        network: what FX's conversion gave, for the engine that is chosen now.
        example: float32 (1, 3, H, W).
    """
    for node in network.graph.find_nodes(op="call_function", target=torch.ops.quantized.dropout):
        node.replace_all_uses_with(node.all_input_nodes[0])
        network.graph.erase_node(node)
    network.recompile()
    clamps = [node for node in network.graph.nodes if _is_clamp(network, node)]
    if not clamps:
        return network
    shapes = Watched.run_of(network, example).shapes
    for node in [node for node in clamps if len(shapes.get(node, ())) == len(_TO_ROWS)]:
        maps = node.all_input_nodes[0]
        with network.graph.inserting_before(node):
            node.replace_input_with(maps, network.graph.call_method("permute", (maps, _TO_ROWS)))
        with network.graph.inserting_after(node):
            clamped = network.graph.call_method("permute", (node, _FROM_ROWS))
        node.replace_all_uses_with(clamped, delete_user_cb=lambda user, new=clamped: user is not new)
    network.recompile()
    return network


def _is_clamp(network: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_method":
        return node.target in _METHODS
    if node.op == "call_module":
        return isinstance(network.get_submodule(str(node.target)), _MODULES)
    return node.target in _FUNCTIONS
