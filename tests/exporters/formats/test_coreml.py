"""Networks whose Core ML program coremltools would write wrongly, or not at all, by itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from exporters.bundle.manifest import Variant
from exporters.bundle.open import open_bundle
from exporters.export import export_bundle
from exporters.formats.contract import ExportOptions
from exporters.source import source_from_factory
from harness.runners.mil.program import read_program
from udacisense.base.records import Outcome

MASKED = """
            self.stem, self.attend = nn.Conv2d(3, 16, 4, 4), nn.MultiheadAttention(16, 2, batch_first=True)
        def features(self, x):
            x = self.stem(x).flatten(2).transpose(1, 2)
            mask = torch.ones(4, 4, dtype=torch.bool).triu(1)
            return self.attend(x, x, x, attn_mask=mask, need_weights=False)[0].mean(1)
"""
FILLED = """
            self.stem = nn.Conv2d(3, 16, 4, 4)
        def features(self, x):
            x = self.stem(x).mean((2, 3))
            mask = x > 0
            half = torch.full_like(mask, 0.5, dtype=torch.float32) + mask.new_full((16,), 0.25, dtype=torch.float32)
            return x * half + torch.ones_like(mask, dtype=torch.float32).cumsum(1)
"""
CELLS = """
            self.stem, self.cell = nn.Conv2d(3, 16, 4, 4), nn.LSTMCell(16, 16)
        def features(self, x):
            x, state = self.stem(x).flatten(2), None
            for step in range(4):
                state = self.cell(x[:, :, step], state)
            return state[0]
"""
CIRCULAR = """
            self.stem = nn.Conv2d(3, 16, 3, padding=(1, 2), padding_mode="circular")
        def features(self, x):
            return self.stem(x).relu().square().mean((2, 3))
"""
STATISTICS = """
            self.stem, self.norm = nn.Conv2d(3, 16, 3), nn.InstanceNorm2d(16, affine=True, track_running_stats=True)
            nn.init.uniform_(self.norm.running_mean, -1, 1)
            nn.init.uniform_(self.norm.running_var, 0.5, 2)
        def features(self, x):
            return self.norm(self.stem(x)).relu().mean((2, 3))
"""
COMPLEX = """
            self.scale = nn.Parameter(torch.ones(16, 2))
        def features(self, x):
            return (torch.view_as_complex(self.scale) * x.mean((1, 2, 3))[:, None]).abs() + x.flatten(1)[:, :16]
"""
HEAD = """
    class Theirs(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(16, 10)
            nn.init.normal_(self.head.weight)
{}
        def forward(self, x):
            return self.head(self.features(x))
    build = Theirs
"""


@pytest.fixture
def written(tmp_path: Path, their: Callable[[str], str]) -> Callable[[str], tuple[Variant, float]]:
    """Write a network in float32, and return the variant and how far its program answers from the network."""

    def write(features: str) -> tuple[Variant, float]:
        source = source_from_factory(their(HEAD.format(features.strip("\n"))), (1, 3, 8, 8), None)
        options = ExportOptions(formats=("coreml",), precisions=("fp32",), batch=1)
        export_bundle(source, tmp_path / "bundle", options)
        bundle = open_bundle(tmp_path / "bundle")
        variant = bundle.variant("coreml-fp32")
        if variant.outcome is not Outcome.PASSED:
            return variant, np.inf
        inputs = torch.from_numpy(bundle.golden_inputs()[:4])
        program = read_program(bundle.path(str(variant.path)))
        with torch.no_grad():
            expected = source.model(inputs)
            got = torch.cat([program.evaluate(image) for image in inputs.split(1)])
        return variant, float((got - expected).abs().max() / expected.abs().max())

    return write


@pytest.mark.parametrize(
    "features",
    [MASKED, FILLED, CELLS, CIRCULAR, STATISTICS],
    ids=["masked", "filled", "cells", "circular", "statistics"],
)
def test_a_program_answers_as_the_network_does(written, features: str) -> None:
    variant, moved = written(features)
    assert variant.reason is None
    assert moved < 1e-4


def test_what_coremltools_does_not_know_is_named(written) -> None:
    variant, _ = written(COMPLEX)
    assert variant.reason is not None
    assert variant.reason.startswith("coremltools does not take this model: it has no form of view_as_complex; let its")
