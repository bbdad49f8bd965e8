"""``.tflite`` files, read without any runtime: the small one that proves TensorFlow Lite's Android library."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

from exporters.bundle.tflite_file import read_tflite
from exporters.preflight.run import preflight
from harness.runtime.build import small_model
from harness.verify.inside.weights import compare_weights
from udacisense.base.records import Outcome
from udacisense.errors import LoadError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "small.tflite"
    target.write_bytes((files("harness.runtime") / "self_test" / "small.tflite").read_bytes())
    return target


def test_its_layers_have_the_weights_and_the_cost_of_their_source(path: Path, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)  # as harness.runtime.build draws them
    drawn = [torch.randn(shape, generator=generator) / 4 for shape in ((8, 3, 3, 3), (8,), (4, 8))]
    convolution, linear = read_tflite(path).layers
    np.testing.assert_allclose(convolution.weights, drawn[0].reshape(8, -1).numpy(), rtol=1e-6)
    np.testing.assert_allclose(linear.weights, drawn[2].numpy(), rtol=1e-6)
    assert (convolution.macs, linear.macs) == (2 * 16 * 16 * 8 * 27, 2 * 4 * 8)
    assert not convolution.is_int8
    bent = [("a", convolution.weights), ("b", linear.weights * 1.01)]
    assert compare_weights([("a", convolution.weights), ("b", linear.weights)], bent)


def test_the_self_test_is_the_network_that_it_is_held_against(path: Path, tmp_path: Path) -> None:
    model, image, answer = small_model(tmp_path, "tflite")
    assert model.read_bytes() == path.read_bytes()
    assert (image.shape, answer.shape) == ((2, 3, 16, 16), (2, 4))


def test_preflight_names_operators_release_and_missing_labels(path: Path) -> None:
    report = preflight(path)
    assert "aligned to 4 KB" in report.warnings[0]
    assert preflight(path, runtime="2.8.0").warnings == ()
    checks = {check.name: check for check in report.checks}
    assert checks["operators"].outcome is Outcome.PASSED
    assert checks["runtime version"].found.startswith("needs ")
    assert checks["labels and normalisation"].found == "none: an app must know them"
    assert checks["input shape"].outcome is Outcome.SKIPPED


@pytest.mark.parametrize("keep", [4, 100, 2000])
def test_a_file_cut_short_is_refused(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(LoadError, match=r"small\.tflite is no whole \.tflite file"):
        read_tflite(path)
