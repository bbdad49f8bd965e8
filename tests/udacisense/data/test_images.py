import io
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as tv

from udacisense.base.photos import fit_square
from udacisense.data.batches import Batches, normalise
from udacisense.data.images import (
    CIFAR100_IDS,
    HOUSEHOLD_CLASSES,
    MEAN,
    STD,
    Images,
    _pick_household,
    load_dataset,
    make_signature,
    stratified_draw,
    stratified_split,
)
from udacisense.errors import InputError


def random_photo(seed, size=(32, 32)):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


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


def numbered(counts, size=8):
    """Images whose first pixel holds their number, with ``counts[c]`` of class c."""
    labels = torch.cat([torch.full((count,), c) for c, count in enumerate(counts)])
    pixels = torch.zeros(len(labels), 3, size, size, dtype=torch.uint8)
    pixels[:, 0, 0, 0] = torch.arange(len(labels))
    return Images(pixels, labels)


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


# --- conversions -----------------------------------------------------------------------------------------------------


def test_grey_transparent_and_palette_images_become_rgb():
    photo = random_photo(6)
    grey = photo.convert("L")
    assert np.array_equal(fit_square(grey, 32), np.asarray(grey)[..., None].repeat(3, axis=2))
    transparent = photo.copy()
    transparent.putalpha(random_photo(7).convert("L"))
    assert np.array_equal(fit_square(transparent, 32), np.asarray(photo))
    palette = photo.convert("P")
    assert np.array_equal(fit_square(palette, 32), np.asarray(palette.convert("RGB")))
    one_bit = photo.convert("1")
    assert set(np.unique(fit_square(one_bit, 32))) == {0, 255}


def test_a_palette_with_transparency_raises_no_warning():
    stream = io.BytesIO()
    palette = random_photo(6).convert("P")
    palette.save(stream, format="PNG", transparency=bytes(range(256)))
    stream.seek(0)
    with Image.open(stream) as photo:
        assert np.array_equal(fit_square(photo, 32), np.asarray(palette.convert("RGB")))


def test_sixteen_bits_are_scaled_and_not_clipped():
    samples = np.arange(32 * 32, dtype=np.uint16).reshape(32, 32) * 64
    stream = io.BytesIO()
    Image.fromarray(samples).save(stream, format="PNG")
    stream.seek(0)
    with Image.open(stream) as photo:
        assert np.array_equal(fit_square(photo, 32)[..., 0], (samples >> 8).astype(np.uint8))


def test_the_centre_square_is_cut_out_before_resizing():
    photo = Image.new("RGB", (101, 32), "red")
    photo.paste("blue", (34, 0, 66, 32))  # the centre square: (101 - 32) // 2 = 34
    assert (fit_square(photo, 32) == (0, 0, 255)).all()
    assert (fit_square(photo.rotate(90, expand=True), 16) == (0, 0, 255)).mean() > 0.9


def test_resizing_is_pillows_antialiased_bilinear():
    photo = random_photo(8, (64, 64))
    expected = np.asarray(photo.resize((32, 32), Image.Resampling.BILINEAR))
    assert np.array_equal(fit_square(photo, 32), expected)
    # antialiased: a reduction averages, where plain bilinear sampling would keep the contrast of random pixels
    assert expected.std() < 0.7 * np.asarray(photo).std()


def test_the_exif_orientation_is_applied():
    photo = Image.new("RGB", (32, 32), "white")
    photo.paste("black", (0, 0, 32, 8))  # dark above
    exif = Image.Exif()
    exif[0x0112] = 3  # the camera was upside down
    stream = io.BytesIO()
    photo.save(stream, format="PNG", exif=exif)
    stream.seek(0)
    with Image.open(stream) as turned:
        assert fit_square(turned, 32)[:, 0, 0].tolist() == [255] * 24 + [0] * 8


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


# --- batches ---------------------------------------------------------------------------------------------------------


def test_normalisation_is_torchvisions():
    photo = random_photo(10)
    pixels = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None]
    expected = tv.normalize(tv.to_tensor(photo), MEAN, STD)
    torch.testing.assert_close(normalise(pixels)[0], expected, rtol=0, atol=1e-6)


def test_plain_batches_give_the_images_in_order():
    images = numbered([4, 3])
    batches = Batches(images, batch_size=3)
    parts = list(batches)
    assert len(batches) == len(parts) == 3
    assert [len(labels) for _, labels in parts] == [3, 3, 1]
    assert torch.equal(torch.cat([x for x, _ in parts]), normalise(images.pixels))
    assert torch.equal(torch.cat([y for _, y in parts]), images.labels)


def flat(batches):
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


@pytest.fixture
def photos():
    generator = torch.Generator().manual_seed(0)
    return Images(torch.randint(0, 256, (50, 3, 32, 32), generator=generator, dtype=torch.uint8), torch.arange(50))


def test_an_epoch_depends_on_seed_and_epoch_and_not_on_history(photos):
    options = {"batch_size": 16, "shuffle": True, "augment": True, "seed": 5}
    through = Batches(photos, **options)
    for epoch in range(3):
        through.set_epoch(epoch)
        torch.rand(epoch + 1)  # the global generator has no part in it
        last = flat(through)
    resumed = Batches(photos, **options)
    resumed.set_epoch(2)
    torch.manual_seed(99)
    again = flat(resumed)
    assert torch.equal(last[0], again[0])
    assert torch.equal(last[1], again[1])
    resumed.set_epoch(1)
    assert not torch.equal(flat(resumed)[1], again[1])
    other = Batches(photos, **{**options, "seed": 6})
    other.set_epoch(2)
    assert not torch.equal(flat(other)[1], again[1])


def test_the_global_generator_is_left_alone(photos):
    torch.manual_seed(4)
    expected = torch.rand(1)
    torch.manual_seed(4)
    flat(Batches(photos, batch_size=8, shuffle=True, augment=True))
    assert torch.equal(torch.rand(1), expected)


def test_shuffling_gives_every_image_once_and_keeps_labels_with_images(photos):
    pixels, labels = flat(Batches(photos, batch_size=16, shuffle=True))
    assert sorted(labels.tolist()) == list(range(50)) != labels.tolist()
    assert torch.equal(pixels, normalise(photos.pixels[labels]))


def test_a_lone_last_image_joins_the_batch_before_when_shuffled():
    images = numbered([5, 4])
    shuffled = Batches(images, batch_size=4, shuffle=True)
    assert [len(y) for _, y in shuffled] == [4, 5]
    assert len(shuffled) == 2
    assert sorted(flat(shuffled)[1].tolist()) == images.labels.tolist()
    assert [len(y) for _, y in Batches(images, batch_size=4)] == [4, 4, 1]
    assert [len(y) for _, y in Batches(images, batch_size=1, shuffle=True)] == [1] * 9
    assert [len(y) for _, y in Batches(images.take(torch.arange(1)), batch_size=4, shuffle=True)] == [1]


def test_an_augmented_image_is_a_crop_of_the_reflected_image_flipped_or_not(photos):
    augmented, _ = flat(Batches(photos, batch_size=50, augment=True, seed=1))
    padded = torch.nn.functional.pad(normalise(photos.pixels), (4, 4, 4, 4), mode="reflect")
    seen = set()
    for i in range(50):
        matches = [
            (top, left, flipped)
            for top in range(9)
            for left in range(9)
            for flipped in (False, True)
            if torch.equal(
                augmented[i].flip(2) if flipped else augmented[i], padded[i, :, top : top + 32, left : left + 32]
            )
        ]
        assert len(matches) == 1, f"image {i} is no such crop"
        seen.add(matches[0])
    # each image has a fate of its own: both ends of the shift and both sides of the flip occur
    assert len(seen) > 25
    assert {f for _, _, f in seen} == {False, True}
    assert {t for t, _, _ in seen} == {left for _, left, _ in seen} == set(range(9))


def test_the_crop_grows_with_the_image():
    pixels = torch.randint(0, 256, (40, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    augmented, _ = flat(Batches(Images(pixels, torch.zeros(40, dtype=torch.int64)), batch_size=40, augment=True))
    padded = torch.nn.functional.pad(normalise(pixels), (8, 8, 8, 8), mode="reflect")
    far = 0
    for i in range(40):
        for flipped in (False, True):
            image = augmented[i].flip(2) if flipped else augmented[i]
            tops = [t for t in range(17) for s in range(17) if torch.equal(image, padded[i, :, t : t + 64, s : s + 64])]
            far += any(abs(t - 8) > 4 for t in tops)
    assert far > 5


def test_other_means_are_used():
    pixels, _ = next(iter(Batches(numbered([2, 2]), batch_size=4, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))))
    assert pixels[3, 0, 0, 0] == pytest.approx(3 / 255)


def test_impossible_batches_are_refused():
    with pytest.raises(InputError, match=r"batch size is 0; allowed is 1 or more\.$"):
        Batches(numbered([2, 2]), batch_size=0)
    with pytest.raises(InputError, match=r"^The seed is -1; allowed is 0 or more\.$"):
        Batches(numbered([2, 2]), batch_size=1, seed=-1)


def test_the_signature_says_what_goes_in_and_out():
    signature = make_signature(("a", "b", "c"), size_px=48)
    assert signature.input_shape == (1, 3, 48, 48)
    assert signature.output_shape == (1, 3)
    assert signature.labels == ("a", "b", "c")
    assert (signature.mean, signature.std) == (MEAN, STD)
    assert signature.resize.antialias
