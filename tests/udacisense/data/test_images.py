import shutil

import numpy as np
import pytest
import torch
from drawn_photos import numbered, random_photo
from PIL import Image

from udacisense.data.images import (
    CIFAR100_IDS,
    HOUSEHOLD_CLASSES,
    MEAN,
    STD,
    _pick_household,
    load_dataset,
    make_signature,
    stratified_draw,
    stratified_split,
)
from udacisense.errors import InputError


@pytest.fixture
def folder(tmp_path):
    """Two classes, three training and two test images each."""
    root = tmp_path / "photos"
    seed = 0
    for split, count in (("train", 3), ("test", 2)):
        for name in ("cat", "ant"):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                random_photo(seed).save(root / split / name / f"{i}.png")
                seed += 1
    return root


def numbers(images):
    return images.pixels[:, 0, 0, 0].tolist()


# --- loading ---------------------------------------------------------------------------------------------------------


def test_the_real_household_images(household):
    dataset = load_dataset(str(household))
    assert dataset.class_names == HOUSEHOLD_CLASSES
    assert dataset.train.pixels.shape == (5000, 3, 32, 32)
    assert dataset.train.pixels.dtype == torch.uint8
    assert dataset.train.labels.bincount().tolist() == [500] * 10
    assert dataset.test.labels.bincount().tolist() == [100] * 10
    first = sorted((household / "test" / "couch").glob("*.png"))[0]
    with Image.open(first) as photo:
        expected = np.asarray(photo.convert("RGB")).transpose(2, 0, 1)
    # couch is the eighth class in household order, and the second-last but two in alphabetical order
    assert np.array_equal(dataset.test.pixels[700].numpy(), expected)


def test_other_classes_are_sorted_and_files_too(folder):
    dataset = load_dataset(str(folder))
    assert dataset.class_names == ("ant", "cat")
    assert dataset.name == "photos"
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    with Image.open(folder / "train" / "cat" / "1.png") as photo:
        assert np.array_equal(dataset.train.pixels[4].permute(1, 2, 0).numpy(), np.asarray(photo))


def test_images_of_any_size_are_fitted(folder):
    random_photo(1, (70, 45)).save(folder / "train" / "cat" / "big.png")
    assert load_dataset(str(folder), size_px=24).train.pixels.shape == (7, 3, 24, 24)


def test_photos_that_inference_reads_first_are_there_for_training(folder):
    train = load_dataset(str(folder), size_px=16).train
    with torch.inference_mode():
        assert train.at(torch.tensor([0])).shape == (1, 3, 16, 16)
    assert not train.stored.is_inference()
    assert not train.at(torch.tensor([0])).is_inference()


def test_the_fingerprint_follows_the_content_and_nothing_else(folder, tmp_path):
    fingerprint = load_dataset(str(folder)).fingerprint
    shutil.copytree(folder, tmp_path / "copy")
    assert load_dataset(str(tmp_path / "copy")).fingerprint == fingerprint
    random_photo(99).save(tmp_path / "copy" / "test" / "cat" / "1.png")
    assert load_dataset(str(tmp_path / "copy")).fingerprint != fingerprint
    for split in ("train", "test"):
        (folder / split / "cat").rename(folder / split / "dog")
    assert load_dataset(str(folder)).fingerprint != fingerprint


def test_hidden_and_foreign_files_are_ignored(folder):
    before = load_dataset(str(folder)).fingerprint
    (folder / "train" / ".DS_Store").write_text("x")
    (folder / "train" / ".cache").mkdir()
    (folder / "train" / "readme.txt").write_text("x")
    (folder / "train" / "cat" / "._0.png").write_text("x")
    (folder / "train" / "cat" / "Thumbs.db").write_text("x")
    (folder / "train" / "cat" / "folder.png").mkdir()
    assert load_dataset(str(folder)).fingerprint == before


def test_every_usual_format_is_read(folder):
    photo = random_photo(5)
    for suffix in ("jpg", "jpeg", "bmp", "gif", "ppm", "tif", "webp", "PNG"):
        photo.save(folder / "train" / "cat" / f"extra.{suffix}", format="JPEG" if suffix == "jpg" else None)
    assert len(load_dataset(str(folder)).train) == 6 + 8


# --- bad input: one sentence, naming what is wrong -------------------------------------------------------------------


def empty(root):
    shutil.rmtree(root)
    root.mkdir()


def only_one_class(root):
    shutil.rmtree(root / "train" / "ant")
    shutil.rmtree(root / "test" / "ant")


def no_class(root):
    only_one_class(root)
    shutil.rmtree(root / "train" / "cat")
    shutil.rmtree(root / "test" / "cat")


def truncated(root):
    path = root / "train" / "cat" / "1.png"
    path.write_bytes(path.read_bytes()[:-400])


def emptied(root):
    for path in (root / "test" / "cat").iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (empty, r"photos has no folder 'train'"),
        (shutil.rmtree, r"photos does not exist; give --data cifar100, or a folder"),
        (lambda r: (shutil.rmtree(r), r.write_text("x")), r"photos is a file"),
        (lambda r: shutil.rmtree(r / "test"), r"has no folder 'test'"),
        (lambda r: shutil.rmtree(r / "test" / "cat"), r"'cat' is in .*train and not in .*test"),
        (lambda r: shutil.rmtree(r / "train" / "cat"), r"'cat' is in .*test and not in .*train"),
        (only_one_class, r"train has only the class 'cat'; a classifier needs at least two"),
        (no_class, r"train has no class folders"),
        (emptied, r"test/cat has 0 images; at least 1 are needed"),
        (
            lambda r: [(r / "train" / "ant" / f"{i}.png").unlink() for i in (0, 2)],
            r"train/ant has 1 images; at least 2",
        ),
        (truncated, r"cat/1\.png cannot be read: .*repair or remove it"),
        (lambda r: (r / "test" / "ant" / "0.png").write_text("text"), r"ant/0\.png cannot be read: it is text"),
        (lambda r: (r / "test" / "ant" / "0.png").write_bytes(b""), r"ant/0\.png cannot be read: it is empty"),
    ],
)
def test_bad_folders_and_files_are_one_sentence(folder, spoil, message):
    spoil(folder)
    with pytest.raises(InputError, match=message) as caught:
        _ = load_dataset(str(folder)).fingerprint
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cut", range(10, 3000, 230))
def test_a_jpeg_cut_anywhere_is_named_or_read(folder, cut):
    path = folder / "train" / "cat" / "cut.jpg"
    random_photo(9, (64, 64)).save(path, quality=80)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match=r"cut\.jpg cannot be read"):
        _ = load_dataset(str(folder)).fingerprint


def test_a_png_with_a_broken_chunk_is_named(folder):
    path = folder / "train" / "cat" / "1.png"
    content = bytearray(path.read_bytes())
    content[60] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"cat/1\.png cannot be read"):
        _ = load_dataset(str(folder)).fingerprint


def test_an_image_size_out_of_range_is_refused(folder):
    with pytest.raises(InputError, match="image size is 0 px"):
        load_dataset(str(folder), size_px=0)


# --- CIFAR-100 -------------------------------------------------------------------------------------------------------


def test_an_offline_download_names_the_folder_alternative(tmp_path, no_network):
    with pytest.raises(InputError, match=r"CIFAR-100 could not be downloaded .*--data DIR") as caught:
        load_dataset("cifar100", cache_dir=tmp_path / "cache")
    assert "\n" not in str(caught.value)


def test_the_household_classes_are_picked_out_of_cifar100_in_order():
    targets = np.arange(200) % 100
    data = np.zeros((200, 32, 32, 3), dtype=np.uint8)
    data[:, 0, 0, 0] = targets
    data[:, 31, 0, 1] = np.arange(200)
    images = _pick_household(data, targets, 32)
    assert images.labels.tolist() == [i // 2 for i in range(20)]
    assert images.pixels[:, 0, 0, 0].tolist() == [i for i in CIFAR100_IDS for _ in range(2)]
    assert images.pixels[1, 1, 31, 0] == 122  # the second clock: row, column and channel in their places


# --- splits and draws ------------------------------------------------------------------------------------------------


def test_a_split_is_stratified_disjoint_and_complete():
    images = numbered([50, 30, 20])
    rest, drawn = stratified_split(images, 0.1, seed=0)
    assert drawn.labels.bincount().tolist() == [5, 3, 2]
    assert rest.labels.bincount().tolist() == [45, 27, 18]
    assert sorted(numbers(rest) + numbers(drawn)) == list(range(100))
    assert all(images.labels[n] == label for n, label in zip(numbers(drawn), drawn.labels, strict=True))


def test_a_split_depends_on_its_seed_alone():
    images = numbered([50, 30])
    torch.manual_seed(1)
    first = stratified_split(images, 0.2, seed=3)[1]
    torch.manual_seed(2)
    assert numbers(stratified_split(images, 0.2, seed=3)[1]) == numbers(first)
    assert numbers(stratified_split(images, 0.2, seed=4)[1]) != numbers(first)


@pytest.mark.parametrize("fraction", [0.01, 0.99])
def test_a_split_leaves_every_class_on_both_sides(fraction):
    rest, drawn = stratified_split(numbered([2, 3]), fraction, seed=0)
    assert set(rest.labels.tolist()) == set(drawn.labels.tolist()) == {0, 1}


def test_impossible_splits_are_refused():
    with pytest.raises(InputError, match="Class 1 has a single image"):
        stratified_split(numbered([5, 1]), 0.5, seed=0)
    for fraction in (0.0, 1.0, -0.1):
        with pytest.raises(InputError, match="allowed is more than 0 and less than 1"):
            stratified_split(numbered([5, 5]), fraction, seed=0)


def test_a_draw_is_even_without_repetition():
    images = numbered([40, 40, 40])
    for n in (1, 2, 3, 10, 32, 120):
        drawn = stratified_draw(images, n, seed=0)
        counts = drawn.labels.bincount(minlength=3)
        assert len(drawn) == n == len(set(numbers(drawn)))
        assert counts.max() - counts.min() <= 1
        assert all(images.labels[k] == label for k, label in zip(numbers(drawn), drawn.labels, strict=True))


def test_a_draw_takes_more_where_a_class_runs_out():
    assert stratified_draw(numbered([2, 10, 10]), 20, seed=0).labels.bincount().tolist() == [2, 9, 9]


def test_a_draw_depends_on_its_seed_and_a_short_one_favours_no_class():
    images = numbered([40, 40, 40])
    assert numbers(stratified_draw(images, 10, seed=1)) == numbers(stratified_draw(images, 10, seed=1))
    assert {stratified_draw(images, 1, seed=seed).labels.item() for seed in range(20)} == {0, 1, 2}


@pytest.mark.parametrize("n", [0, -1, 11])
def test_impossible_draws_are_refused(n):
    with pytest.raises(InputError, match="allowed is 1 to 10"):
        stratified_draw(numbered([5, 5]), n, seed=0)


# --- signature -------------------------------------------------------------------------------------------------------


def test_the_signature_says_what_goes_in_and_out():
    signature = make_signature(("a", "b", "c"), size_px=48)
    assert signature.input_shape == (1, 3, 48, 48)
    assert signature.output_shape == (1, 3)
    assert signature.labels == ("a", "b", "c")
    assert (signature.mean, signature.std) == (MEAN, STD)
    assert signature.resize.antialias
