"""One photo, from its file to the 8-bit RGB square that models are fed with.

Stands below everything that imports PyTorch: processes that decode photos start in a fraction of a second.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from udacisense.base.files import what_it_is
from udacisense.errors import InputError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".bmp", ".gif", ".ppm", ".tif", ".tiff", ".webp"})
# Those alone, whatever a file is called: Pillow would start Ghostscript for PostScript that is named like a photo.
IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_NO_PHOTOS = (  # by their first bytes, whatever they are called
    (rb"....ftyp(hei|hev|mif1|msf1)", "it is HEIC: save it as JPEG"),
    (rb"....ftypavi", "it is AVIF: save it as JPEG"),
    (rb"....ftyp", "it is a film, or a photo in a film's container: save it as JPEG"),
    (rb"\x00\x00\x00\x0cjP|\xff\x4f\xff\x51", "it is JPEG 2000: save it as JPEG"),
    (rb"8BPS|\x00\x00\x01\x00|%PDF|(<\?xml.*)?<svg", "it is a drawing, an icon or a document: save it as PNG"),
)
_ORIENTATION = 0x0112  # the EXIF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Keep what Pillow warns of off the screen while the block runs: what cannot be read raises."""
    log = logging.getLogger("PIL")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")
            yield
    finally:
        log.setLevel(level)


def read_square(path: Path, size_px: int) -> NDArray[np.uint8]:
    """Read an image file as :func:`fit_square` gives it.

    Raises:
        InputError: the file is no whole image (it is named).
    """
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as photo:
            return fit_square(photo, size_px)
    # Pillow tells of damage by whatever its decoders run into: OSError, SyntaxError, IndexError, struct.error, ...
    except Exception as exc:
        raise InputError(f"The image {path} cannot be read: {why_unreadable(exc, path)}; repair or remove it.") from exc


def why_unreadable(exc: Exception, path: Path) -> str:
    """Return why Pillow could not read a file, as half a sentence: what it is instead, where that is known."""
    if not isinstance(exc, UnidentifiedImageError):
        return (getattr(exc, "strerror", None) or str(exc)).rstrip(".") or type(exc).__name__
    with path.open("rb") as stream:
        start = stream.read(256).lstrip(b" \r\n\t")
    for pattern, what in _NO_PHOTOS:
        if re.match(pattern, start, re.DOTALL):
            return what
    return what_it_is(path) or "it is no image that Pillow knows"


def fit_square(photo: Image.Image, size_px: int) -> NDArray[np.uint8]:
    """Turn a photo into the square that models are fed with: uint8 (size_px, size_px, 3), RGB.

    The EXIF orientation is applied, the mode becomes 8-bit RGB (wider samples as :func:`eight_bits` has them,
    transparency is dropped), the centre square is cut out (offsets rounded down) and resized with Pillow's antialiased
    ``BILINEAR`` filter. That is a resize of the short edge and a centre crop, in the order that reads fewer pixels.
    """
    rgb = to_rgb(upright(photo))
    edge = min(rgb.size)
    left, top = (rgb.width - edge) // 2, (rgb.height - edge) // 2
    square = rgb.crop((left, top, left + edge, top + edge))
    return np.array(square.resize((size_px, size_px), Image.Resampling.BILINEAR))


def orientation(photo: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 (upright) where there is none or none that can be read."""
    try:
        found = photo.getexif().get(_ORIENTATION)
    except Exception:  # a damaged block of metadata says nothing, and the photo is whole
        return 1
    return found if isinstance(found, int) and found in _TURNS else 1


def upright(photo: Image.Image) -> Image.Image:
    """Apply the EXIF orientation. Pillow's own ``exif_transpose`` also writes the other tags anew, and may fail."""
    photo.load()  # a PNG's metadata may lie behind its pixels: damage of either shows here
    turn = _TURNS.get(orientation(photo))
    return photo if turn is None else photo.transpose(turn)


def to_rgb(photo: Image.Image) -> Image.Image:
    """Return 8-bit RGB of any mode."""
    if photo.mode in ("I", "F") or photo.mode.startswith("I;16"):
        return Image.fromarray(eight_bits(np.asarray(photo))).convert("RGB")  # Pillow would clip them at 255
    if photo.mode == "P":
        # By way of RGBA: Pillow warns of palettes with transparency otherwise.
        return photo.convert("RGBA").convert("RGB")
    return photo.convert("RGB")


def eight_bits(samples: NDArray[Any]) -> NDArray[np.uint8]:
    """Bring wider samples to 8 bits: the upper 8 of as many (8, 16, 31) as the largest needs; a float's 1 becomes 255.

    Raises:
        ValueError: some are no numbers.
    """
    if not np.isfinite(samples).all():
        raise ValueError("it holds NaN or infinity")
    most = samples.max(initial=0)
    if samples.dtype.kind == "f" and most <= 1:
        scale = 255.0
    else:
        scale = 1.0 if most <= 255 else 2.0**-8 if most <= 65535 else 2.0**-23
    return np.clip(samples * scale, 0, 255).astype(np.uint8)
