"""What a static int8 network's activations are like, as it runs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

MAPS = 4  # dimensions
_SAMPLES = 4096  # of an activation, at most
Grid = tuple[torch.dtype, float, int]  # integer type, scale, zero point


class Watched(fx.Interpreter):
    """Runs a network; keeps on which grid each of its quantised activations lies, its shape and some of its numbers."""

    def __init__(self, network: fx.GraphModule) -> None:
        """Watch nothing yet; :meth:`run_of` runs too."""
        super().__init__(network)
        self.answer = torch.empty(0)
        self.grids: dict[fx.Node, Grid] = {}
        self.shapes: dict[fx.Node, torch.Size] = {}
        self.samples: dict[fx.Node, Tensor] = {}
        self.constants = set[fx.Node]()  # parameters, and what is computed of them alone
        self._in_maps = set[fx.Node]()

    @classmethod
    def run_of(cls, network: fx.GraphModule, example: Tensor) -> Watched:
        """Return what an example, float32 (1, 3, H, W), shows."""
        watched = cls(network)
        with torch.no_grad():
            watched.answer = watched.run(example)
        return watched

    def run_node(self, n: fx.Node) -> Any:
        """Run a node, and keep what its answer is like."""
        answer = super().run_node(n)
        if n.op == "get_attr" or (n.all_input_nodes and self.constants.issuperset(n.all_input_nodes)):
            self.constants.add(n)
        # A split's parts are no case: FX lets it take and give float32.
        if isinstance(answer, Tensor) and answer.is_quantized and answer.qscheme() == torch.per_tensor_affine:
            self.grids[n] = (answer.dtype, answer.q_scale(), answer.q_zero_point())
            self.shapes[n] = answer.shape
            self.samples[n] = answer.dequantize().flatten()[:: -(-answer.numel() // _SAMPLES)].clone()
            if answer.dim() == MAPS and answer.is_contiguous(memory_format=torch.channels_last):
                self._in_maps.add(n)
        return answer

    def is_dense(self, node: fx.Node, shape: torch.Size) -> bool:
        """Tell whether an activation has a shape, in any batch, and lies with channels last and without gaps."""
        return self.shapes[node] == shape and node in self._in_maps and node not in self.constants
