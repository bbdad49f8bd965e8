"""What ``data check`` finds in a folder that has every fault."""

from __future__ import annotations

import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from drawn_photos import a_photo, exif_with_a_broken_rational, photo_folder
from PIL import Image

from udacisense.data.check import DataReport, check_folder, unequal

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = photo_folder(
        tmp_path_factory.mktemp("check") / "photos",
        {"train": {NFC: 10, "tea": 6}, "test": {NFD: 3, "tea": 3}},
        size=(320, 240),
    )
    train, test = root / "train" / NFC, root / "test" / NFD
    for i in range(3):
        shutil.copy(train / f"{i}.jpg", test / f"same-{i}.jpg")
    with Image.open(train / "5.jpg") as photo:
        photo.resize((300, 225)).save(test / "again.jpg", quality=60)
    shutil.copy(train / "6.jpg", root / "train" / "tea" / "disputed.jpg")
    shutil.copy(train / "7.jpg", train / "twice.jpg")
    a_photo("star", 1).save(train / "web.jfif", format="JPEG")
    a_photo("star", 2).save(train / "turned.jpg", exif=exif_with_a_broken_rational())
    a_photo("star", 3).convert("CMYK").save(train / "print.jpg")
    Image.fromarray(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16).save(train / "deep.png")
    Image.new("RGB", (64, 64)).save(root / "train" / "tea" / "black.png")
    a_photo("star", 4, (640, 64)).save(root / "train" / "tea" / "strip.png")
    (train / "phone.heic").write_bytes(b"x")
    (train / "cut.jpg").write_bytes((train / "1.jpg").read_bytes()[:900])
    for name in ("Thumbs.db", ".DS_Store"):
        (train / name).write_bytes(b"x")
    return root


@pytest.fixture(scope="module")
def report(faulty: Path) -> DataReport:
    return check_folder(faulty)


def test_everything_is_counted_by_class(report: DataReport) -> None:
    assert report.train == {NFC: 16, "tea": 9}
    assert report.test == {NFC: 7, "tea": 3}
    assert report.formats == {"JPEG": 31, "PNG": 3}
    assert report.short_edges_px == (64, 240, 240)


@pytest.mark.parametrize(
    ("kind", "spoils", "n_photos", "names"),
    [
        ("unreadable", True, 1, ["cut.jpg"]),
        ("in-train-and-test", True, 3, ["0.jpg", "same-0.jpg"]),
        ("nearly-in-train-and-test", True, 1, ["again.jpg", "5.jpg"]),
        ("in-two-classes", True, 2, ["6.jpg", "disputed.jpg"]),
        ("repeated", False, 1, ["7.jpg", "twice.jpg"]),
        ("turned", False, 1, ["turned.jpg"]),
        ("cmyk", False, 1, ["print.jpg"]),
        ("sixteen-bit", False, 1, ["deep.png"]),
        ("even", False, 1, ["black.png"]),
        ("thin", False, 1, ["strip.png"]),
        ("skipped", False, 1, ["phone.heic"]),
        ("spelled-twice", False, 1, [NFC]),
    ],
)
def test_each_fault_is_found_once_and_named(
    report: DataReport, kind: str, spoils: bool, n_photos: int, names: list[str]
) -> None:
    (found,) = [finding for finding in report.findings if finding.kind == kind]
    assert (found.spoils, found.n_photos) == (spoils, n_photos)
    assert [Path(name).name for name in found.photos[0]][: len(names)] == names


def test_nothing_else_is_found(report: DataReport) -> None:
    assert len(report.findings) == 12
    assert report.spoils


def test_photos_that_are_merely_alike_are_no_duplicates(tmp_path: Path) -> None:
    counts = {"train": {"ring": 12, "star": 12}, "test": {"ring": 6, "star": 6}}
    clean = check_folder(photo_folder(tmp_path / "clean", counts))
    assert (clean.findings, clean.spoils) == ((), False)


def test_classes_that_differ_tenfold_are_told_with_what_to_do() -> None:
    assert unequal({"a": 99, "b": 10}) is None
    told = unequal({"a": 1000, "b": 100, "c": 500})
    assert told is not None
    assert "1,000 training photos of 'a' and 100 of 'b'" in told
    assert "--balance" in told
