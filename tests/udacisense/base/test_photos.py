"""One photo from its file; what is asked of whole folders stands in tests/udacisense/data."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
from drawn_photos import a_photo, exif_with_a_broken_rational
from PIL import Image, ImageOps

from udacisense.base.photos import fit_square, orientation, quiet_pillow, read_square


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
