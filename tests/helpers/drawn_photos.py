"""Photos that are drawn for a test, and images that bear a number."""

from __future__ import annotations

import random
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from udacisense.data.images import Images
from udacisense.data.shapes import SHAPES, draw_shape


def a_photo(shape: str, number: object, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """A drawn shape on the middle of a wide photo; the same arguments give the same pixels."""
    square = draw_shape(shape, random.Random(f"{shape}{number}"), size_px=min(size))  # noqa: S311 - pictures
    photo = square.resize(size)
    photo.paste(square, ((size[0] - min(size)) // 2, (size[1] - min(size)) // 2))
    return photo


def photo_folder(root: Path, counts: Mapping[str, Mapping[str, int]], size: tuple[int, int] = (160, 120)) -> Path:
    """Draw ``counts[split][class]`` photos into ``root/<split>/<class>/*.jpg``."""
    for split, classes in counts.items():
        for number, (name, count) in enumerate(classes.items()):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                shape = list(SHAPES)[number % len(SHAPES)]
                a_photo(shape, f"{split}{name}{i}", size).save(folder / f"{i}.jpg", quality=90)
    return root


def exif_with_a_broken_rational() -> bytes:
    """EXIF of a photo that is turned (6), with a horizontal resolution of -1/0: Pillow cannot write that anew."""
    header = b"II*\0" + struct.pack("<IH", 8, 2)
    turned = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    resolution = struct.pack("<HHII", 0x011A, 10, 1, 38)
    return b"Exif\0\0" + header + turned + resolution + struct.pack("<I", 0) + struct.pack("<iI", -1, 0)


def random_photo(seed, size=(32, 32)):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def numbered(counts, size=8):
    """Images whose first pixel holds their number, with ``counts[c]`` of class c."""
    labels = torch.cat([torch.full((count,), c) for c, count in enumerate(counts)])
    pixels = torch.zeros(len(labels), 3, size, size, dtype=torch.uint8)
    pixels[:, 0, 0, 0] = torch.arange(len(labels))
    return Images(pixels, labels)
