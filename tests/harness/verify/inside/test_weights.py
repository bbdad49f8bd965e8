"""Weights in a file against the reference's, at every precision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from exporters.bundle.open import Bundle, open_bundle
from harness.runners.table import CannotJudgeError
from harness.verify.inside.own_weights import fused_reference
from harness.verify.inside.weights import Weights, compare_weights, onnx_weights, reference_weights

Change = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@pytest.fixture(scope="module")
def bundle(small_bundle: Path) -> Bundle:
    return open_bundle(small_bundle)


def layer(seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).standard_normal((32, 64))


def coarse(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sixteen values, each the mean of what it stands for."""
    from exporters.formats.coreml import cluster

    centres, indices = cluster(values, bits=4)
    return centres[indices].reshape(values.shape)


def exchange(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values[[1, 0, *range(2, len(values))]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v, None),
        (coarse, None),
        (lambda v: np.round(v * 30) / 30, None),
        (lambda v: 1.01 * v, "1.01 times as large"),
        (lambda v: 1.01 * coarse(v), "1.01 times as large"),
        (exchange, "do not resemble|times as large|channels 0, 1 are others"),
        (lambda v: exchange(coarse(v)), "times as large|channels 0, 1 are others"),
        (lambda v: v * np.nan, "NaN or infinite"),
        (lambda v: v[:, :10], "shape"),
        (np.zeros_like, "do not resemble"),
    ],
)
def test_noise_passes_and_bias_does_not(change: Change, words: str | None) -> None:
    found = compare_weights([("a", layer(1)), ("b", layer(2))], [("x", layer(1)), ("y", change(layer(2)))])
    if words is None:
        assert found == ()
    else:
        (problem,) = found
        assert problem.startswith("the weights of b (y) are not its source's: ")
        assert any(word in problem for word in words.split("|"))


def test_of_weights_that_are_rounded_by_a_recipe_each_one_is_looked_at() -> None:
    whole = np.rint(40 * layer())
    expected = [("a", whole)]
    assert compare_weights(expected, [("x", 1.0005 * whole)], rounded=True) == ()  # a float16 scale
    moved = whole.copy()
    moved[3, 2] += 1
    assert compare_weights(expected, [("x", moved)]) == ()
    (problem,) = compare_weights(expected, [("x", moved)], rounded=True)
    assert problem.endswith(f"1 of {whole.size} are not rounded as its recipe says")
    (problem,) = compare_weights(expected, [("x", 1.02 * whole)], rounded=True)
    assert "1.02 times as large" in problem


def test_exchanged_channels_are_named() -> None:
    values = layer()
    values[2:] *= 10  # so that two channels of thirty-two hardly move the slope
    values[:2] *= 8
    (problem,) = compare_weights([("a", values)], [("x", exchange(values))])
    assert "channels 0, 1 are others" in problem or "times as large" in problem


def test_other_counts_are_not_judged() -> None:
    with pytest.raises(CannotJudgeError, match="0 layers with weights in the file, 1 in its source"):
        compare_weights([("a", layer())], [])
    # As many by chance: an attention's products in the place of the layers that its source has as modules.
    with pytest.raises(CannotJudgeError, match="a and b have other shapes"):
        compare_weights([("a", layer()), ("b", layer()[:4])], [("x", layer()[:4]), ("y", layer())])


@pytest.mark.parametrize("name", ["onnx-fp32", "onnx-int8-static", "onnx-int8-dynamic", "onnx-fp16"])
def test_onnx_weights_are_read_from_every_precision(bundle: Bundle, name: str) -> None:
    variant = bundle.variant(name)
    if variant.path is None:
        pytest.skip(f"{name}: {variant.reason}")
    example = torch.from_numpy(bundle.golden_inputs()[:1])
    expected: Weights = reference_weights(fused_reference(bundle, variant, None), example)
    got = onnx_weights(bundle.path(variant.path))
    assert [w.shape for _, w in got] == [w.shape for _, w in expected]
    for (_, source), (_, stored) in zip(expected, got, strict=True):
        assert (stored * source).sum() > 0.9 * np.linalg.norm(stored) * np.linalg.norm(source)
