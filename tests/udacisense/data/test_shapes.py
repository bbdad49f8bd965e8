import hashlib
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import cross_entropy

from udacisense.base.files import sha256_path
from udacisense.data.batches import Batches
from udacisense.data.images import load_dataset
from udacisense.data.shapes import SHAPES, draw_dataset, draw_shape
from udacisense.errors import InputError
from udacisense.measure.metrics import evaluate
from udacisense.models.build import build_model, preset


def test_the_drawn_set_is_a_data_set_of_ten_classes(tmp_path):
    draw_dataset(tmp_path / "shapes", train_per_class=3, test_per_class=2, seed=1)
    dataset = load_dataset(str(tmp_path / "shapes"))
    assert dataset.class_names == tuple(sorted(SHAPES))
    assert dataset.train.pixels.shape == (30, 3, 32, 32)
    assert dataset.test.pixels.shape == (20, 3, 32, 32)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        draw_dataset(tmp_path / name, train_per_class=2, test_per_class=1, seed=seed)
    digests = {name: sha256_path(tmp_path / name) for name in "abc"}
    assert digests["a"] == digests["b"] != digests["c"]


def test_a_larger_set_begins_with_the_smaller_one(tmp_path):
    draw_dataset(tmp_path / "small", train_per_class=2, test_per_class=1, seed=5)
    draw_dataset(tmp_path / "large", train_per_class=3, test_per_class=2, seed=5)
    for path in (tmp_path / "small").rglob("*.png"):
        assert path.read_bytes() == (tmp_path / "large" / path.relative_to(tmp_path / "small")).read_bytes()


def test_no_picture_is_drawn_twice_not_even_across_the_splits(tmp_path):
    draw_dataset(tmp_path / "shapes", train_per_class=5, test_per_class=5, seed=0)
    digests = [hashlib.sha256(p.read_bytes()).hexdigest() for p in (tmp_path / "shapes").rglob("*.png")]
    assert len(set(digests)) == len(digests) == 100


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_stands_out_from_its_background(name):
    for seed in range(20):
        picture = np.asarray(draw_shape(name, random.Random(seed), size_px=32), dtype=np.float64)  # noqa: S311
        corners = picture[[0, 0, -1, -1], [0, -1, 0, -1]].mean(axis=0)
        unlike = (np.linalg.norm(picture - corners, axis=2) > 65).mean()
        assert 0.01 < unlike < 0.99


def test_the_size_is_what_was_asked_for(tmp_path):
    draw_dataset(tmp_path / "shapes", train_per_class=2, test_per_class=1, seed=0, size_px=48)
    with Image.open(tmp_path / "shapes" / "train" / "star" / "00000.png") as picture:
        assert picture.size == (48, 48)
        assert picture.mode == "RGB"


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match="not an empty folder"):
        draw_dataset(tmp_path, train_per_class=2, test_per_class=1, seed=0)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("change", [{"train_per_class": 1}, {"test_per_class": 0}, {"seed": -1}, {"size_px": 8}])
def test_numbers_out_of_range_are_refused(tmp_path, change):
    with pytest.raises(InputError, match="allowed are"):
        draw_dataset(tmp_path / "x", **{"train_per_class": 2, "test_per_class": 1, "seed": 0, **change})
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_a_small_network_learns_the_shapes_in_a_few_epochs(tmp_path):
    draw_dataset(tmp_path / "shapes", train_per_class=150, test_per_class=20, seed=0)
    dataset = load_dataset(str(tmp_path / "shapes"))
    torch.manual_seed(0)
    model = build_model(preset("tiny", resolution_px=48))
    batches = Batches(dataset.train, batch_size=32, shuffle=True)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for epoch in range(5):
        batches.set_epoch(epoch)
        for images, labels in batches:
            optimiser.zero_grad()
            cross_entropy(model(images), labels).backward()
            optimiser.step()
    assert (
        evaluate(model, Batches(dataset.test, batch_size=100), dataset.class_names).top1_fraction > 0.6
    )  # chance is 0.1
