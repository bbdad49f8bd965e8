"""What the precisions of ONNX make of weights that several layers read, of attention, and of rare operators."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from exporters.bundle.open import Bundle, open_bundle
from exporters.export import export_bundle
from exporters.formats.contract import ExportOptions
from exporters.formats.onnx.graph import tidied
from exporters.source import ExportSource, drawn_images, source_from_factory
from udacisense.base.records import Outcome
from udacisense.data.images import HOUSEHOLD_CLASSES, DataSet, Images

TIED = """
    import copy
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 10)
            self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)
            self.b.weight, self.c = self.a.weight, copy.deepcopy(self.a)  # two that are one, and one that is equal
        def forward(self, x):
            x = self.stem(x).relu().mean((2, 3))
            return self.head(self.c(self.b(self.a(x).relu()).relu()))
    build = Tied
"""
ATTENTION = """
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.qkv, self.head = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 48), nn.Linear(16, 10)
        def forward(self, x):
            x = self.stem(x).flatten(2).transpose(1, 2)
            q, k, v = self.qkv(x).reshape(-1, 4, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
            x = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(-1, 4, 16)
            return self.head(x.mean(1))
    build = Attention
"""
GROUPS = """
    def build():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.ConvTranspose2d(8, 8, 2, 2, groups=2),
                             nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular"), nn.AdaptiveAvgPool2d(1),
                             nn.Flatten(), nn.Linear(8, 10))
"""
FOURIER = """
    class Fourier(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(3, 10)
        def forward(self, x):
            return self.head(torch.fft.rfft2(x).abs().mean((2, 3)))
    build = Fourier
"""


@pytest.fixture
def written(tmp_path: Path, their: Callable[[str], str]) -> Callable[..., tuple[ExportSource, Bundle]]:
    def write(code: str, *precisions: str) -> tuple[ExportSource, Bundle]:
        images = Images(drawn_images(20, 8).pixels, torch.arange(20) % 10)
        source = source_from_factory(their(code), (1, 3, 8, 8), DataSet("drawn", HOUSEHOLD_CLASSES, images, images))
        options = ExportOptions(formats=("onnx",), precisions=precisions, float_blocks=0)
        export_bundle(source, tmp_path / "bundle", options)
        return source, open_bundle(tmp_path / "bundle")

    return write


def moved(source: ExportSource, bundle: Bundle, name: str) -> float:
    """Return how far a file answers from its model, as a share of the answers' own size."""
    variant = bundle.variant(name)
    assert variant.outcome is Outcome.PASSED, variant.reason
    inputs = bundle.golden_inputs()
    with torch.no_grad():
        expected = source.model(torch.from_numpy(inputs)).numpy()
    session = onnxruntime.InferenceSession(str(bundle.path(str(variant.path))), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"input": inputs})
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def test_weights_that_several_layers_read_are_rounded_once(written) -> None:
    source, bundle = written(TIED, "fp32", "int8-dynamic", "int8-static")
    for name, most in (("onnx-fp32", 1e-5), ("onnx-int8-dynamic", 0.1), ("onnx-int8-static", 0.2)):
        assert moved(source, bundle, name) < most, name
    # Each layer of the float32 file reads its weights by itself, and equal ones are there once.
    graph = onnx.load(bundle.path("model-onnx-fp32.onnx")).graph
    assert "Identity" not in {node.op_type for node in graph.node}
    assert sum(list(tensor.dims) == [16, 16] for tensor in graph.initializer) == 1
    for name in ("onnx-int8-dynamic", "onnx-int8-static"):
        found = bundle.variant(name).coverage
        assert found is not None
        assert found.parameters_int8_fraction <= 1.0, name


def test_attention_runs_in_float16(written) -> None:
    source, bundle = written(ATTENTION, "fp16")
    assert moved(source, bundle, "onnx-fp16") < 1e-2


def test_a_transposed_convolution_of_groups_leaves_the_rest_int8(written) -> None:
    source, bundle = written(GROUPS, "int8-static")
    assert moved(source, bundle, "onnx-int8-static") < 0.2


def test_an_operator_that_onnx_lacks_is_named(written) -> None:
    _, bundle = written(FOURIER, "fp32")
    reason = bundle.variant("onnx-fp32").reason
    assert reason is not None
    assert reason.startswith("ONNX of opset 17 has no operator for what the model computes (aten::fft_rfft2); let")


def test_what_a_branch_reads_is_left() -> None:
    """An Identity that a branch reads by name from outside stays; one that nodes read goes."""
    made = onnx.helper.make_node
    value = onnx.helper.make_tensor_value_info
    inside = onnx.helper.make_graph(
        [made("Neg", ["kept"], ["negative"])], "inside", [], [value("negative", onnx.TensorProto.FLOAT, [1])]
    )
    nodes = [
        made("Identity", ["x"], ["kept"]),
        made("Identity", ["x"], ["idle"]),
        made("Cast", ["idle"], ["same"], to=onnx.TensorProto.FLOAT),
        made("Cast", ["same"], ["yes"], to=onnx.TensorProto.BOOL),
        made("If", ["yes"], ["y"], then_branch=inside, else_branch=inside),
    ]
    x, y = (value(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    model = tidied(onnx.helper.make_model(onnx.helper.make_graph(nodes, "outside", [x], [y])))
    assert [(node.op_type, list(node.input)) for node in model.graph.node] == [
        ("Identity", ["x"]),
        ("Cast", ["x"]),
        ("If", ["yes"]),
    ]


def test_a_layer_that_its_author_named_a_copy_counts(written: Callable[..., tuple[ExportSource, Bundle]]) -> None:
    code = """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.stem, self.head_copy_2 = nn.Conv2d(3, 4, 3), nn.Linear(4, 10)
            def forward(self, x):
                return self.head_copy_2(self.stem(x).relu().mean((2, 3)))
        build = Net
    """
    source, bundle = written(code, "int8-dynamic")
    coverage = bundle.variant("onnx-int8-dynamic").coverage
    assert coverage is not None
    held = source.model.head_copy_2.weight.numel() / sum(p.numel() for p in source.model.parameters())
    assert coverage.parameters_int8_fraction == pytest.approx(held)
