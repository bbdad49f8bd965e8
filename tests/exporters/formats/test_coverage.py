from __future__ import annotations

import torch
from torch import nn

from exporters.bundle.manifest import Coverage
from exporters.formats.coverage import coverage, coverage_line, layers


def test_costs_are_those_of_a_hand_calculation() -> None:
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1, groups=2),  # 8×(4/2)×9 = 144 weights, at 10×10: 14,400 MACs
        nn.ConvTranspose2d(8, 2, 2, stride=2),  # 8×2×4 = 64 weights, each of 8×10×10 inputs meets 2×4: 6,400 MACs
        nn.Flatten(),
        nn.Linear(800, 5),  # 4,000 weights and MACs
    )
    found = {layer.name: (layer.weights, layer.macs) for layer in layers(model, torch.zeros(1, 4, 10, 10))}
    assert found == {"0": (144, 14400), "1": (64, 6400), "3": (4000, 4000)}
    share = coverage(model, torch.zeros(1, 4, 10, 10), {"3"})
    assert (share.modules_int8, share.modules_total) == (1, 3)
    assert share.macs_int8_fraction == 4000 / 24800
    assert share.parameters_int8_fraction == 4000 / (144 + 8 + 64 + 2 + 4000 + 5)


def test_dynamic_int8_is_seen_to_cover_little(exported) -> None:
    dynamic = exported.bundle.variant("ptl-int8-dynamic-qnnpack").coverage
    static = exported.bundle.variant("ptl-int8-static-qnnpack").coverage
    assert (dynamic.modules_int8, dynamic.modules_total) == (1, 14)
    assert dynamic.macs_int8_fraction < 0.01
    assert (static.modules_int8, static.macs_int8_fraction) == (14, 1.0)
    # ONNX's graph and PyTorch's modules are counted by different code and must agree.
    assert exported.bundle.variant("onnx-int8-static").coverage == static
    assert exported.bundle.variant("onnx-int8-dynamic").coverage == dynamic
    assert exported.bundle.variant("coreml-int8-weights").coverage.modules_int8 == 0


def test_the_line_is_in_words() -> None:
    found = Coverage(modules_int8=2, modules_total=54, parameters_int8_fraction=0.39, macs_int8_fraction=0.011)
    assert coverage_line(found) == "int8: 2 of 54 conv/linear modules, 39.0 % of parameters, 1.1 % of MACs"
