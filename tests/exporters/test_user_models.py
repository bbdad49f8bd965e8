"""A user's own models, through ``package.module:factory``: torchvision's, at the 224 px that they were made for."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from exporters.bundle.manifest import Precision
from exporters.bundle.open import open_bundle
from exporters.bundle.reference import eager_source
from exporters.export import export_bundle
from exporters.formats.contract import ExportOptions
from exporters.source import drawn_images, source_from_factory
from harness.runners.mil.program import read_program
from udacisense.base.records import Outcome
from udacisense.data.batches import normalise
from udacisense.data.images import DataSet, Images
from udacisense.errors import InputError

pytestmark = pytest.mark.slow


def awake(factory: str, inputs: torch.Tensor, path: Path) -> Path:
    """Write weights with which the logits depend on the image: BatchNorm knows what it sees, and they are spread."""
    module, _, name = factory.partition(":")
    torch.manual_seed(0)
    model = getattr(importlib.import_module(module), name)(num_classes=7, weights=None).train()
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # the statistics of the one pass below
    with torch.no_grad():
        model(inputs)
        model.eval()
        logits = model(inputs)
        model.fc.weight.mul_(1 / logits.std(dim=0).mean())
        assert model(inputs).std(dim=0).min() > 0.1
    save_file(model.state_dict(), path)
    return path


@pytest.mark.parametrize(
    ("factory", "formats", "precisions"),
    [
        ("torchvision.models:shufflenet_v2_x0_5", ("ptl", "onnx", "coreml"), ("fp32", "int8-static")),
        ("torchvision.models:resnet18", ("torchscript",), ("fp32",)),
    ],
)
def test_a_users_model_is_exported_and_verified(
    factory: str, formats: tuple[str, ...], precisions: tuple[Precision, ...], tmp_path: Path
) -> None:
    labels = tuple(f"class {i}" for i in range(7))
    images = Images(drawn_images(14, 224).pixels, torch.arange(14) % 7)
    source = source_from_factory(
        factory,
        (1, 3, 224, 224),
        DataSet("drawn", labels, images, images),
        options={"num_classes": 7, "weights": None},
        init=str(awake(factory, normalise(images.pixels), tmp_path / "weights.safetensors")),
    )
    assert source.signature.labels == labels
    options = ExportOptions(formats=formats, precisions=precisions, engines=("qnnpack",), calibration=8, float_blocks=0)
    manifest = export_bundle(source, tmp_path / "bundle", options)
    assert [(v.id, v.reason) for v in manifest.variants if v.outcome is not Outcome.PASSED] == []
    bundle = open_bundle(tmp_path / "bundle")
    variant = bundle.variant("torchscript-fp32" if "torchscript" in formats else "ptl-fp32-xnnpack")
    with pytest.raises(InputError, match="not run unasked"):
        eager_source(bundle, variant)
    inputs = torch.from_numpy(bundle.golden_inputs())
    assert inputs.shape[1:] == (3, 224, 224)
    with torch.no_grad():
        eager = eager_source(bundle, variant, allow_factory=factory)(inputs).numpy()
    np.testing.assert_allclose(eager, bundle.golden_logits(), atol=1e-3)
    assert variant.coverage is None
    if "coreml" in formats:
        program = read_program(bundle.path(str(bundle.variant("coreml-fp32").path)))
        with torch.inference_mode():
            answers = torch.cat([program.evaluate(image) for image in inputs[:3].split(1)]).numpy()
        np.testing.assert_allclose(answers, bundle.golden_logits()[:3], atol=1e-3)
    for found in manifest.variants:
        if found.precision == "int8-static":
            assert found.coverage is not None
            assert found.coverage.macs_int8_fraction == 1.0
