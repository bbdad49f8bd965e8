"""One photo from its file; what is asked of whole folders stands in tests/udacisense/data."""

from __future__ import annotations

import io
import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
from drawn_photos import a_photo, exif_with_a_broken_rational, random_photo
from PIL import Image, ImageOps

from udacisense.base.photos import fit_square, orientation, quiet_pillow, read_square
from udacisense.errors import InputError


def test_a_photo_whose_exif_cannot_be_written_anew_is_turned_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    a_photo("arrow", 1).save(path, exif=exif_with_a_broken_rational(), quality=95)
    with Image.open(path) as opened:
        assert orientation(opened) == 6
        upright = Image.fromarray(np.asarray(opened)).transpose(Image.Transpose.ROTATE_270)
        with pytest.raises(Exception):  # noqa: B017, PT011 - whatever Pillow's own way runs into
            ImageOps.exif_transpose(opened)
    assert np.array_equal(read_square(path, 64), fit_square(upright, 64))


@pytest.mark.parametrize("value", [0, 9, 700])
def test_an_orientation_that_there_is_not_means_upright(value: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    a_photo("arrow", 1).save(tmp_path / "a.jpg", exif=exif)
    with Image.open(tmp_path / "a.jpg") as photo:
        assert orientation(photo) == 1


def test_what_pillow_says_stays_off_the_screen(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet_pillow():
        warnings.warn_explicit("a huge photo", Image.DecompressionBombWarning, "Image.py", 1, module="PIL.Image")
        logging.getLogger("PIL.TiffImagePlugin").warning("more samples than can be decoded")
    assert capfd.readouterr() == ("", "")
    with pytest.warns(Image.DecompressionBombWarning):
        warnings.warn_explicit("a huge photo", Image.DecompressionBombWarning, "Image.py", 1, module="PIL.Image")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"<!DOCTYPE html><html>403</html>", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "it is a Git LFS pointer"),
        (b'{"error": "not found"}', "it is text"),
        (b"", "it is empty"),
        (bytes(500), "it holds zeros"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "it is HEIC: save it as JPEG"),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "it is AVIF: save it as JPEG"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0", "it is a film"),
        (b'<?xml version="1.0"?>\n<svg width="1"/>', "it is a drawing"),
        (b"\x93\xfe\x01\x00" * 20, "it is no image that Pillow knows"),
    ],
)
def test_what_is_called_a_photo_is_named_for_what_it_is(content: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(InputError, match=told):
        read_square(tmp_path / "a.jpg", 32)


@pytest.mark.parametrize(("dtype", "most"), [("f4", 1), ("f4", 255), ("i4", 255), ("u2", 65535), ("i4", 2**31 - 1)])
def test_samples_of_any_width_keep_the_photo(dtype: str, most: int, tmp_path: Path) -> None:
    ramp = np.linspace(0, 1, 256).repeat(64).reshape(128, 128)
    Image.fromarray((ramp * most).astype(dtype)).save(tmp_path / "a.tif")
    square = read_square(tmp_path / "a.tif", 128).astype(int)
    assert np.abs(square[..., 0] - ramp * 255).max() <= 1


def test_a_sample_that_is_no_number_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0.5, np.nan], [0.1, 0.2]], "f4")).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match="it holds NaN or infinity"):
        read_square(tmp_path / "a.tif", 32)


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
