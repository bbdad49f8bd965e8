from __future__ import annotations

import numpy as np
import pytest
import torch

from exporters.bundle.precision import deployed, eager_model, load_activations
from exporters.formats.coreml import cluster
from udacisense.base.tensors import save_tensors
from udacisense.data.batches import normalise
from udacisense.data.images import make_signature
from udacisense.errors import InputError, LoadError
from udacisense.stages.static import calibrate


def test_deployed_takes_pixels_and_answers_probabilities(source) -> None:
    pixels = source.golden.pixels[:4]
    with torch.no_grad():
        expected = torch.softmax(source.model(normalise(pixels)), dim=1)
        module = deployed(source.model, source.signature, normalize=True, temperature=1.0)
        torch.testing.assert_close(module(pixels.float()), expected, rtol=1e-4, atol=1e-5)
        softer = deployed(source.model, source.signature, normalize=True, temperature=2.0)
        softened = torch.softmax(source.model(normalise(pixels)) / 2, dim=1)
        torch.testing.assert_close(softer(pixels.float()), softened, rtol=1e-4, atol=1e-5)
    assert deployed(source.model, source.signature, normalize=False, temperature=None) is source.model


def test_other_means_are_used() -> None:
    signature = make_signature(["a", "b"], mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1.0))
    module = deployed(torch.nn.Identity(), signature, normalize=True, temperature=None)
    out = module(torch.full((1, 3, 1, 1), 255.0))
    torch.testing.assert_close(out.flatten(), torch.tensor([2.0, 1.0, 0.5]))


@pytest.mark.parametrize("engine", ["fbgemm", "qnnpack"])
def test_calibration_is_kept_in_a_file_and_gives_the_same_network(source, engine: str, tmp_path) -> None:
    example = normalise(source.golden.pixels[:1])
    state = {key: value.clone() for key, value in source.model.state_dict().items()}
    found = calibrate(source.model, engine, [normalise(source.calibration.pixels[:16])])
    save_tensors(tmp_path / "a.safetensors", found)
    kept = load_activations(tmp_path / "a.safetensors")
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = engine
    try:
        models = [
            eager_model(source.model, "int8-static", engine, example=example, activations=activations)
            for activations in (found, kept)
        ]
        with torch.no_grad():
            first, second = (model(example) for model in models)
            master = source.model(example)
    finally:
        torch.backends.quantized.engine = before
    assert torch.equal(first, second)
    assert 0 < (first - master).abs().max() < 0.2 * master.abs().max()
    assert all(torch.equal(state[key], value) for key, value in source.model.state_dict().items())


def test_calibration_of_another_model_is_refused(source) -> None:
    example = normalise(source.golden.pixels[:1])
    activations = calibrate(source.model, "fbgemm", [example])
    activations.popitem()
    with pytest.raises(InputError, match="belong to another model"):
        eager_model(source.model, "int8-static", "fbgemm", example=example, activations=activations)
    with pytest.raises(InputError, match="calibrate it first"):
        eager_model(source.model, "int8-static", "fbgemm", example=example, activations=None)
    with pytest.raises(InputError, match="needs calibration images"):
        calibrate(source.model, "fbgemm", [])


def test_a_file_that_holds_no_calibration_is_refused(tmp_path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"no")
    with pytest.raises(LoadError, match=r"a\.safetensors"):
        load_activations(tmp_path / "a.safetensors")


def test_clusters_on_the_line_are_found() -> None:
    rng = np.random.default_rng(0)
    truth = np.array([-3.0, -1.0, 0.5, 4.0])
    weight = (truth[rng.integers(0, 4, (50, 40))] + rng.normal(0, 0.01, (50, 40))).astype(np.float32)
    centres, indices = cluster(weight, bits=2)
    np.testing.assert_allclose(centres, truth, atol=0.01)
    assert indices.dtype == np.uint8
    assert np.abs(centres[indices].reshape(weight.shape) - weight).max() < 0.1


def test_more_clusters_than_values_lose_nothing() -> None:
    weight = np.array([0.0, 1.0, 1.0, 2.0], np.float16)
    centres, indices = cluster(weight, bits=4)
    assert centres.shape == (16,)
    np.testing.assert_array_equal(centres[indices], weight)
