"""Models that nothing can be held against: each is told in a sentence of its own, and no file is blamed for it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from exporters.bundle.open import Bundle, open_bundle
from exporters.export import export_bundle
from exporters.formats.contract import ExportOptions
from exporters.source import drawn_images, source_from_factory
from harness.records import MeasurementSet
from harness.verify.options import VerifyOptions
from harness.verify.run import exit_code, verify_bundle
from udacisense.base.records import Outcome
from udacisense.data.images import DataSet, Images
from udacisense.errors import InferenceError

FACTORY = "changing_model:build"
# How it behaves is read from a file at each call, so that a bundle of a sound model gets a reference that is not.
CODE = """
from pathlib import Path

import torch
from torch import nn


class Changing(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)
        self.calls = 0

    def forward(self, images):
        self.calls += 1
        mode = Path(__file__).with_name("mode").read_text()
        features = self.conv(images).relu().mean((2, 3))
        if mode == "neighbours":
            features = features - 0.5 * features.mean(0, keepdim=True)
        if mode == "branch" and images.mean() > 0.2:
            features = -features
        if mode == "dropout":
            features = nn.functional.dropout(features, 0.3)
        if mode == "state":
            features = features * (1 + 0.1 * self.calls)
        if mode == "lonely" and len(images) == 1:
            raise ValueError("Expected more than 1 value per channel when training")
        if mode == "large":
            features = 3000 * features
            features = features / (features * features).sum(1, keepdim=True).sqrt()
        return 5 * self.fc(features)


def build():
    torch.manual_seed(0)
    return Changing()
"""


def exported(folder: Path, mode: str, *, fp16: bool = False) -> Bundle:
    (folder / "changing_model.py").write_text(CODE)
    (folder / "mode").write_text(mode)
    sys.modules.pop("changing_model", None)
    images = Images(drawn_images(60, 32).pixels, torch.arange(60) % 4)
    dataset = DataSet("drawn", ("a", "b", "c", "d"), images, images)
    source = source_from_factory(FACTORY, (1, 3, 32, 32), dataset)
    options = ExportOptions(formats=("onnx",), precisions=("fp16",) if fp16 else ("fp32",), batch=1)
    export_bundle(source, folder / "bundle", options)
    return open_bundle(folder / "bundle")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("changing")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        return exported(folder, "sound")


def verified(bundle: Bundle, mode: str, monkeypatch: pytest.MonkeyPatch) -> MeasurementSet:
    monkeypatch.syspath_prepend(bundle.root.parent)
    (bundle.root.parent / "mode").write_text(mode)
    chosen = tuple(variant.id for variant in bundle.exported() if variant.format == "onnx")
    return verify_bundle(
        bundle, VerifyOptions(variants=chosen, runners=("onnxruntime",), allow_factory=FACTORY, processes=1)
    )


def test_a_sound_model_passes(sound: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = verified(sound, "sound", monkeypatch)
    assert exit_code(measured) == 0, [m.reason for m in measured.measurements]


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("neighbours", "depends on the other images of its batch: alone and in batches of 50, max"),
        ("branch", "depends on the other images of its batch"),
        ("dropout", "answers differ from call to call"),
        ("state", "answers differ from call to call"),
        ("lonely", "does not answer an image alone"),
    ],
)
def test_a_model_that_answers_by_more_than_the_image_is_told_so(
    sound: Bundle, monkeypatch: pytest.MonkeyPatch, mode: str, words: str
) -> None:
    with pytest.raises(InferenceError, match=words):
        verified(sound, mode, monkeypatch)


def test_float16_that_a_phone_cannot_hold_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here it passes: onnxruntime widens what it has no float16 kernels for."""
    monkeypatch.syspath_prepend(tmp_path)
    measured = verified(exported(tmp_path, "large", fp16=True), "large", monkeypatch)
    (found,) = measured.measurements
    assert found.outcome is Outcome.FAILED
    assert "after conv (mul) is beyond float16, which ends at 65,504" in (found.reason or "")
    assert np.isfinite(found.comparison.max_abs if found.comparison and found.comparison.max_abs else 0.0)
