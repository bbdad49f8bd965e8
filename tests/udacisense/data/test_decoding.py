"""The cache of decoded photos: what it holds, when it is made again, and what never gets into it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_photos import a_photo, photo_folder

from udacisense.base.decoder import PIXELS
from udacisense.base.photos import read_square
from udacisense.data import decoding, images
from udacisense.data.batches import Batches
from udacisense.data.decoding import PhotoCache, cached_squares, caches, list_caches, remove_caches
from udacisense.data.folder import list_folder
from udacisense.data.images import load_dataset, stratified_split
from udacisense.errors import BusyError, InputError

COUNTS = {"train": {"cup": 6, "pan": 5}, "test": {"cup": 2, "pan": 2}}


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of photos, each set of which counts as large."""
    monkeypatch.setenv("UDACISENSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(images, "MOST_IN_MEMORY_BYTES", 0)
    return photo_folder(tmp_path / "photos", COUNTS)


def test_a_large_set_is_mapped_and_has_the_pixels_of_one_in_memory(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapped = load_dataset(str(photos), size_px=48)
    assert mapped.train.is_mapped
    monkeypatch.setattr(images, "MOST_IN_MEMORY_BYTES", 10**9)
    held = load_dataset(str(photos), size_px=48)
    assert not held.train.is_mapped
    assert torch.equal(mapped.train.pixels, held.train.pixels)
    assert torch.equal(mapped.test.labels, held.test.labels)
    split, expected = (stratified_split(data.train, 0.3, seed=1) for data in (mapped, held))
    assert split[0].stored.data_ptr() == mapped.train.stored.data_ptr(), "a part of it is no copy"
    for part, whole in zip(split, expected, strict=True):
        batches = [Batches(i, batch_size=4, shuffle=True, augment=True, seed=3) for i in (part, whole)]
        for (ours, labels), (theirs, wanted) in zip(*batches, strict=True):
            assert torch.equal(ours, theirs)
            assert torch.equal(labels, wanted)


def test_a_second_run_takes_what_the_first_decoded(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_dataset(str(photos), size_px=48).fingerprint
    monkeypatch.setattr(decoding, "decode", None)  # whoever calls it fails
    assert load_dataset(str(photos), size_px=48).fingerprint == first


def test_photos_are_opened_when_their_pixels_are_asked_for_and_few_of_them_alone(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = load_dataset(str(photos), size_px=32)
    few = stratified_split(dataset.train, 0.1, seed=1)[1]
    monkeypatch.setattr(decoding, "decode", None)
    read: list[Path] = []
    monkeypatch.setattr(images, "read_square", lambda path, px: (read.append(path), read_square(path, px))[1])
    assert (few.shape, read) == ((3, 32, 32), [])
    assert few.pixels.shape[0] == len(read) == len(few) < len(dataset.train) / 4


def test_a_changed_photo_and_a_damaged_cache_are_decoded_again(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    for index in range(40):
        a_photo("star", index).save(photos / f"train/cup/more-{index}.png")
    files = list_folder(photos).flat("train")
    cached_squares(files, 32, "reading")
    a_photo("heart", 99).save(files[3])
    pixels, _ = cached_squares(files, 32, "reading")
    assert np.array_equal(pixels[3].permute(1, 2, 0).numpy(), read_square(files[3], 32))
    ((place, _),) = list_caches()
    for square in (0, 1, len(files) - 2, len(files) - 1):
        caplog.clear()
        with (place / PIXELS).open("r+b") as stream:
            stream.seek(square * 3 * 32 * 32)
            stream.write(bytes(100))
        again, _ = cached_squares(files, 32, "reading")
        assert "are damaged, and are made again" in caplog.text
        assert np.array_equal(again[square].permute(1, 2, 0).numpy(), read_square(files[square], 32))


def test_another_photo_under_a_copied_time_is_decoded(photos: Path) -> None:
    files = [photo.with_suffix(".bmp") for photo in list_folder(photos).flat("train")]  # all bitmaps are of one size
    for index, path in enumerate(files):
        a_photo("heart", index).save(path)
    cached_squares(files, 32, "reading")
    before = files[3].stat()
    a_photo("star", 99).save(files[3])
    os.utime(files[3], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (files[3].stat().st_size, files[3].stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    pixels, _ = cached_squares(files, 32, "reading")
    assert np.array_equal(pixels[3].permute(1, 2, 0).numpy(), read_square(files[3], 32))


def _many(place: Path) -> None:
    record = place / PhotoCache.FILE_NAME
    record.write_text(record.read_text().replace('"n_images": 11', '"n_images": -1'))


def _a_file(place: Path) -> None:
    shutil.rmtree(place)
    place.write_text("no folder")


@pytest.mark.parametrize("harm", [_many, _a_file, lambda place: os.truncate(place / PIXELS, 5)])
def test_what_is_no_cache_is_made_again(harm: Callable[[Path], None], photos: Path) -> None:
    files = list_folder(photos).flat("train")
    wanted = cached_squares(files, 32, "reading")[0].clone()
    ((place, _),) = list_caches()
    harm(place)
    assert torch.equal(cached_squares(files, 32, "reading")[0], wanted)


def test_a_disk_that_fills_up_meanwhile_is_told_and_nothing_is_left(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(InputError, match=r"cannot be kept in .*: no space left on device; set UDACISENSE_CACHE"):
        _ = load_dataset(str(photos), size_px=32).train.pixels
    assert [path.name for path in caches().iterdir()] == []


def test_a_run_that_ended_between_two_looks_is_no_failure(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked = decoding.locked, []

    def busy_once(place: Path) -> AbstractContextManager[None]:
        asked.append(place)
        if len(asked) == 1:
            raise BusyError("another run")  # which has ended when the lock is looked at
        return real(place)

    monkeypatch.setattr(decoding, "locked", busy_once)
    assert len(load_dataset(str(photos), size_px=32).train.pixels) == 11
    assert len(asked) == 2


def test_a_photo_that_cannot_be_read_is_named_and_nothing_is_kept(photos: Path) -> None:
    (photos / "train" / "pan" / "1.jpg").write_bytes(b"no photo")
    with pytest.raises(InputError, match=r"train/pan/1\.jpg cannot be read: it is text"):
        _ = load_dataset(str(photos), size_px=32).train.pixels
    assert [path.name for path in caches().iterdir()] == []


def test_a_disk_with_too_little_room_is_found_before_anything_is_decoded(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(InputError, match=r"11 photos of .* at 32 px take 0\.034 MB below .*; make room"):
        _ = load_dataset(str(photos), size_px=32).train.pixels


def test_what_is_kept_is_removed_by_the_folder_of_its_photos(photos: Path, tmp_path: Path) -> None:
    _ = load_dataset(str(photos), size_px=32).fingerprint
    assert sorted(kept.n_images for _, kept in list_caches() if kept) == [4, 11]
    assert remove_caches(str(tmp_path / "elsewhere")) == []
    assert len(remove_caches(str(photos))) == 2
    assert list_caches() == []
