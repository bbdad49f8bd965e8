from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from exporters.bundle.golden import read_floats
from exporters.source import drawn_images, source_from_factory
from udacisense.base.photos import fit_square
from udacisense.data.batches import normalise
from udacisense.errors import InputError, LoadError


def test_pixels_become_inputs_become_logits(exported) -> None:
    bundle = exported.bundle
    golden = bundle.manifest.golden
    raw = bundle.path(golden.images_path).read_bytes()
    inputs, logits = bundle.golden_inputs(), bundle.golden_logits()
    end = 0
    for index, image in enumerate(golden.images):
        assert image.offset_bytes == end
        end += image.width_px * image.height_px * 3
        pixels = np.frombuffer(raw[image.offset_bytes : end], np.uint8).reshape(image.height_px, image.width_px, 3)
        square = torch.from_numpy(fit_square(Image.fromarray(pixels), 32)).permute(2, 0, 1)[None]
        np.testing.assert_array_equal(normalise(square).numpy()[0], inputs[index])
        assert logits[index].argmax() == image.predicted
    assert end == len(raw)
    with torch.no_grad():
        np.testing.assert_allclose(exported.source.model(torch.from_numpy(inputs)).numpy(), logits, atol=1e-4)


def test_some_images_must_be_cropped_and_resized(exported) -> None:
    images = exported.bundle.manifest.golden.images
    shapes = {(image.width_px, image.height_px) for image in images}
    assert len(images) == 38
    assert (48, 64) in shapes
    assert any(width > height for width, height in shapes)
    assert any(width < 32 for width, _ in shapes)


@pytest.mark.slow
def test_labels_of_drawn_pictures_are_absent_and_those_of_data_are_true(exported) -> None:
    images = exported.bundle.manifest.golden.images[:32]
    assert [image.label for image in images] == exported.source.golden.labels.tolist()
    assert len({image.label for image in images}) == 10
    source = source_from_factory("torchvision.models:squeezenet1_1", (1, 3, 64, 64), None)
    assert source.golden_is_drawn
    assert source.calibration is None


def test_drawn_pictures_are_repeatable_and_not_flat() -> None:
    first, again = drawn_images(4, 32), drawn_images(4, 32)
    assert torch.equal(first.pixels, again.pixels)
    assert first.pixels.float().std() > 30


def test_a_file_of_another_length_is_refused(tmp_path) -> None:
    (tmp_path / "x.f32").write_bytes(b"\0" * 12)
    with pytest.raises(LoadError, match=r"shape \(2, 2\)"):
        read_floats(tmp_path / "x.f32", (2, 2))


@pytest.mark.parametrize(
    ("factory", "shape", "message"),
    [
        ("torchvision.models:squeezenet1_1", (1, 3, 64, 32), "H = W"),
        ("torchvision.models:squeezenet1_1", (1, 1, 64, 64), "H = W"),
        ("torchvision.models:inception_v3", (1, 3, 32, 32), "does not take"),
        ("torch.nn:Identity", (1, 3, 32, 32), "a classifier answers one tensor"),
    ],
)
# Inception warns that its initialisation will change before it refuses the input.
@pytest.mark.filterwarnings("ignore:The default weight initialization of inception_v3:FutureWarning")
def test_a_model_that_is_no_classifier_of_this_shape_is_refused(factory: str, shape, message: str) -> None:
    with pytest.raises(InputError, match=message):
        source_from_factory(factory, shape, None)
