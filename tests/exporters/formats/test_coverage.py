from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from exporters.export import export_bundle
from exporters.formats.contract import ExportOptions
from exporters.formats.coverage import coverage, layers
from exporters.source import drawn_images, source_from_factory
from udacisense.base.records import Outcome
from udacisense.data.images import HOUSEHOLD_CLASSES, DataSet, Images


def test_costs_are_those_of_a_hand_calculation() -> None:
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1, groups=2),  # 8×(4/2)×9 = 144 weights, at 10×10: 14,400 MACs
        nn.ConvTranspose2d(8, 2, 2, stride=2),  # 8×2×4 = 64 weights, each of 8×10×10 inputs meets 2×4: 6,400 MACs
        nn.Flatten(),
        nn.Linear(800, 5),  # 4,000 weights and MACs
    )
    found = {
        layer.name: (sum(weight.numel() for weight in layer.weights), layer.macs)
        for layer in layers(model, torch.zeros(1, 4, 10, 10))
    }
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


class Rows(nn.Module):
    """Reads an image row by row, and lets the rows attend to each other."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(24, 16, batch_first=True)
        self.gru = nn.GRU(16, 8, batch_first=True)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.fc = nn.Linear(8, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        rows = self.gru(self.lstm(images.permute(0, 2, 1, 3).flatten(2))[0])[0]
        return self.fc(self.attention(rows, rows, rows, need_weights=False)[0][:, -1])


def test_recurrent_layers_and_attention_count_too() -> None:
    images = torch.zeros(1, 3, 8, 8)
    found = {layer.name: layer.macs for layer in layers(Rows().eval(), images)}
    assert found == {
        "lstm": 8 * (24 + 16) * 4 * 16,  # 8 rows, four gates of 16
        "gru": 8 * (16 + 8) * 3 * 8,
        "attention": 8 * 8 * 8 * 4 + 2 * 8 * 8 * 8,  # four projections; rows by rows, twice
        "fc": 80,
    }
    share = coverage(Rows().eval(), images, {"fc"})
    assert (share.modules_int8, share.modules_total) == (1, 4)
    assert share.macs_int8_fraction < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 20])  # the second: more than the images that are calibrated on at once
def test_static_int8_of_onnx_leaves_an_lstm_in_float32(tmp_path: Path, their: Callable[[str], str], batch: int) -> None:
    """ONNX Runtime's quantiser takes the last layer alone; FX, which finds blocks to leave out, cannot trace this."""
    code = """
        class Rows(nn.Module):
            def __init__(self):
                super().__init__()
                self.lstm, self.fc = nn.LSTM(24, 16, batch_first=True), nn.Linear(16, 10)
            def forward(self, x):
                assert list(x.shape[2:]) == [8, 8]
                if not self.training and x.shape[0] > 1000:
                    x = x[:1000]
                return self.fc(self.lstm(x.permute(0, 2, 1, 3).flatten(2))[0][:, -1])
        build = Rows
    """
    images = Images(drawn_images(40, 8).pixels, torch.arange(40) % 10)
    dataset = DataSet("drawn", HOUSEHOLD_CLASSES, images, images)
    source = source_from_factory(their(code), (1, 3, 8, 8), dataset)
    options = ExportOptions(
        formats=("onnx", "torchscript"), precisions=("int8-static",), engines=("qnnpack",), batch=batch
    )
    made = {v.id: v for v in export_bundle(source, tmp_path / "bundle", options).variants}
    assert made["onnx-int8-static"].outcome is Outcome.PASSED, made["onnx-int8-static"].reason
    told = made["onnx-int8-static"].options
    assert (told["recipe"], told["calibration_images"]) == (None, 40)  # onnxruntime's own
    found = made["onnx-int8-static"].coverage
    assert (found.modules_int8, found.modules_total) == (1, 2)
    assert found.macs_int8_fraction == 160 / (160 + 8 * (24 + 16) * 4 * 16)
    reason = made["torchscript-int8-static-qnnpack"].reason
    assert "torch.fx can trace" in reason
    assert "take static int8 as ONNX" in reason


@pytest.mark.parametrize("batch", [None, 2])
def test_a_file_counts_what_its_source_counts(tmp_path: Path, their: Callable[[str], str], batch: int | None) -> None:
    """Rows whose number follows from computed shapes, a transposed convolution, a batch: each once an image."""
    code = """
        class Patches(nn.Module):
            def __init__(self):
                super().__init__()
                self.patches, self.up = nn.Conv2d(3, 8, 4, 4), nn.ConvTranspose2d(8, 4, 2, 2)
                self.encoder = nn.TransformerEncoderLayer(4, 2, 16, batch_first=True)
                self.fc = nn.Linear(4, 10)
            def forward(self, x):
                return self.fc(self.encoder(self.up(self.patches(x)).flatten(2).transpose(1, 2)).mean(1))
        build = Patches
    """
    images = Images(drawn_images(16, 8).pixels, torch.arange(16) % 10)
    source = source_from_factory(their(code), (1, 3, 8, 8), DataSet("drawn", HOUSEHOLD_CLASSES, images, images))
    options = ExportOptions(formats=("onnx",), precisions=("int8-dynamic", "int8-static"), batch=batch, float_blocks=0)
    made = {v.id: v for v in export_bundle(source, tmp_path / "bundle", options).variants}
    macs = {layer.name: layer.macs for layer in layers(source.model, torch.zeros(1, 3, 8, 8))}
    products = 2 * 16 * 16 * 4  # of rows with each other, in float32 everywhere
    every, linear = sum(macs.values()), sum(macs.values()) - macs["patches"] - macs["up"]
    assert macs["up"] == 8 * 2 * 2 * 4 * 4
    for name, int8 in (("onnx-int8-dynamic", linear), ("onnx-int8-static", every)):
        found = made[name].coverage
        assert found is not None, made[name].reason
        assert found.macs_int8_fraction == pytest.approx((int8 - products) / every)
        assert found.modules_int8 <= found.modules_total == 7
