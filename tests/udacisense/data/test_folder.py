"""Which files of a folder are read, and at which size."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from drawn_photos import a_photo, photo_folder

from udacisense.data.folder import fitting_px, list_folder, usual_size
from udacisense.data.images import load_dataset
from udacisense.errors import InputError

COUNTS = {"train": {"cup": 3, "pan": 4}, "test": {"cup": 2, "pan": 2}}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return photo_folder(tmp_path / "photos", COUNTS)


def test_a_class_that_is_spelled_in_two_unicode_forms_is_one(photos: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    (photos / "train" / "cup").rename(photos / "train" / composed)
    (photos / "test" / "cup").rename(photos / "test" / decomposed)
    found = list_folder(photos)
    assert found.class_names == (composed, "pan")
    assert found.spelled_twice == (composed,)
    assert (found.counts("train"), found.counts("test")) == ([3, 4], [2, 2])
    assert load_dataset(found).class_names == (composed, "pan")


def test_what_is_not_read_is_told_with_its_reason(photos: Path) -> None:
    cup = photos / "train" / "cup"
    for name in ("phone.heic", "web.avif", "notes.txt", "Thumbs.db", ".DS_Store"):
        (cup / name).write_bytes(b"x")
    (cup / "more").mkdir()
    a_photo("star", 1).save(cup / "more" / "deep.jpg")
    (cup / "gone.jpg").symlink_to("nothing.jpg")
    a_photo("star", 2).save(photos / "train" / "loose.jpg")
    reasons = {s.path.name: s.reason for s in list_folder(photos).skipped}
    assert reasons == {
        "phone.heic": "HEIC is not read; save it as JPEG",
        "web.avif": "AVIF is not read; save it as JPEG",
        "notes.txt": ".txt is no photo's ending",
        "gone.jpg": "it is a link to nothing",
        "deep.jpg": "it lies in a folder below its class",
        "loose.jpg": "it lies in no folder of a class",
    }


def test_a_jfif_is_a_jpeg(photos: Path) -> None:
    a_photo("star", 1).save(photos / "train" / "cup" / "web.jfif", format="JPEG")
    assert list_folder(photos).counts("train") == [4, 4]
    assert len(load_dataset(str(photos)).train) == 8


def test_the_usual_size_is_that_of_a_photo_in_the_middle(photos: Path) -> None:
    a_photo("star", 1, (1200, 900)).save(photos / "train" / "cup" / "large.jpg")
    (photos / "train" / "cup" / "broken.jpg").write_bytes(b"no photo")
    assert usual_size(list_folder(photos)) == (160, 120)


@pytest.mark.parametrize(
    ("moved", "to", "told"),
    [
        ("test", "val", r"no folder 'test' \(it has train/, val/\)"),
        ("train/cup", "train/Cup", "'Cup' is in .*Is it 'cup'"),
        ("train/cup", "train/caf\udce9", "'caf.*no text .UTF-8"),
        ("train/cup", "train/cup/images", "train/cup has 0 images.*: 0.jpg is not read, it lies in a folder below"),
    ],
)
def test_another_layout_is_told_by_what_is_there(photos: Path, moved: str, to: str, told: str) -> None:
    (photos / moved).rename(photos / "aside")
    (photos / to).parent.mkdir(exist_ok=True)
    (photos / "aside").rename(photos / to)
    if "\udce9" in to:
        (photos / "test/cup").rename(photos / to.replace("train", "test"))
    with pytest.raises(InputError, match=told):
        list_folder(photos)


@pytest.mark.parametrize(
    ("short_px", "resolution_px", "fed_px"),
    [(32, 224, 32), (28, 224, 32), (32, 16, 32), (64, 224, 64), (480, 224, 224), (480, 128, 128), (3000, 299, 299)],
)
def test_photos_are_fed_at_the_networks_resolution_and_small_images_as_they_are(
    short_px: int, resolution_px: int, fed_px: int
) -> None:
    assert fitting_px(short_px, resolution_px) == fed_px
