"""What is fed to a bundle's variants: real images, the golden pack, and probes that find bugs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from exporters.bundle.golden import read_floats
from exporters.bundle.manifest import Manifest
from udacisense.base.photos import fit_square
from udacisense.base.records import Signature
from udacisense.data.batches import normalise
from udacisense.data.images import DataSet
from udacisense.errors import InputError, LoadError

PixelArray = NDArray[np.uint8]


@dataclass(frozen=True)
class InputSet:
    """Images with, where they are known, their classes."""

    description: str  # in words, with the count
    pixels: PixelArray  # uint8 (n, 3, H, W), RGB
    labels: NDArray[np.int64] | None  # (n,)

    def __len__(self) -> int:
        return len(self.pixels)


def normalized(pixels: PixelArray, signature: Signature) -> NDArray[np.float32]:
    """Return what a variant of ``input_kind`` "normalized" takes: float32 (n, 3, H, W)."""
    result: NDArray[np.float32] = normalise(torch.from_numpy(pixels), mean=signature.mean, std=signature.std).numpy()
    return result


def real_inputs(dataset: DataSet, signature: Signature) -> InputSet:
    """Return a data set's test images.

    Raises:
        InputError: its classes or its image size are not the bundle's.
    """
    if tuple(dataset.class_names) != signature.labels:
        raise InputError(
            f"The data set's classes ({', '.join(dataset.class_names)}) are not the bundle's "
            f"({', '.join(signature.labels)}), in this order; give the data that the model was trained for."
        )
    pixels = dataset.test.pixels.numpy()
    if pixels.shape[2:] != (signature.size_px, signature.size_px):
        raise InputError(
            f"The data set's images are {pixels.shape[3]} × {pixels.shape[2]} px; the bundle takes "
            f"{signature.size_px} × {signature.size_px}. Load it with size_px={signature.size_px}."
        )
    return InputSet(f"{dataset.name} test, {len(pixels)} images", pixels, dataset.test.labels.numpy())


@dataclass(frozen=True)
class GoldenPack:
    """A bundle's golden pack, read and checked against itself."""

    inputs: InputSet
    logits: NDArray[np.float32]  # (n, C), what the float32 master answered when the bundle was made


def golden_pack(folder: Path, manifest: Manifest) -> GoldenPack:
    """Read the golden pack and hold it against the signature.

    Raises:
        LoadError: it is cut short, or its pixels, tensors, logits and labels contradict each other (a wrong mean,
            std or resize shows here).
    """
    golden, signature = manifest.golden, manifest.signature
    n, size, classes = len(golden.images), signature.size_px, len(signature.labels)
    if min(n, size, classes) < 1:
        raise LoadError("The golden pack is empty: nothing could be compared.")
    photos = (folder / golden.images_path).read_bytes()
    tensors = read_floats(folder / golden.inputs_path, (n, 3, size, size))
    logits = read_floats(folder / golden.logits_path, (n, classes))
    pixels = np.stack([_square(photos, manifest, i) for i in range(n)])
    off = float(np.abs(normalized(pixels, signature) - tensors).max())
    if not off <= 1e-5:
        raise LoadError(
            f"The golden pack's tensors are not its images, resized and normalised as the signature says "
            f"(max |Δ| {off:.3g}): the mean, the standard deviation or the resize is wrong. Export the bundle again."
        )
    predicted = [image.predicted for image in golden.images]
    if predicted != logits.argmax(axis=1).tolist():
        raise LoadError("The golden pack's predictions are not the largest of its logits; export the bundle again.")
    known = [image.label for image in golden.images if image.label is not None]
    if any(not 0 <= label < classes for label in known):
        raise LoadError(f"The golden pack has labels outside 0 … {classes - 1}; export the bundle again.")
    labels = np.asarray(known, dtype=np.int64) if len(known) == n else None  # drawn images have no class
    return GoldenPack(InputSet(f"golden pack, {n} images", pixels, labels), logits)


def _square(photos: bytes, manifest: Manifest, index: int) -> PixelArray:
    from PIL import Image

    image = manifest.golden.images[index]
    count = image.width_px * image.height_px * 3
    raw = photos[image.offset_bytes : image.offset_bytes + count]
    if min(image.width_px, image.height_px) < 1 or len(raw) != count:
        raise LoadError(f"{manifest.golden.images_path} is cut short at image {index}; export the bundle again.")
    photo = Image.frombytes("RGB", (image.width_px, image.height_px), raw)
    square: PixelArray = np.asarray(fit_square(photo, manifest.signature.size_px)).transpose(2, 0, 1)
    return square


def probe_images(size_px: int) -> dict[str, PixelArray]:
    """Return images that are legal and that no photo is, name → uint8 (3, size, size)."""
    shape = (3, size_px, size_px)
    rows, columns = np.indices((size_px, size_px))
    random = np.random.default_rng(0)
    middle = size_px // 2

    def pattern(mask: NDArray[np.bool_]) -> PixelArray:
        return np.broadcast_to(np.where(mask, 255, 0), shape).astype(np.uint8)

    colours = {
        name: np.broadcast_to(np.asarray(rgb, dtype=np.uint8).reshape(3, 1, 1), shape).copy()
        for name, rgb in (
            ("black", (0, 0, 0)),
            ("white", (255, 255, 255)),
            ("grey", (128, 128, 128)),
            ("red", (255, 0, 0)),
            ("green", (0, 255, 0)),
            ("blue", (0, 0, 255)),
        )
    }
    return {
        **colours,
        "one hot pixel in a corner": pattern((rows == 0) & (columns == 0)),
        "one hot pixel in the middle": pattern((rows == middle) & (columns == middle)),
        "one black pixel on white": pattern((rows != middle) | (columns != middle)),
        "checkerboard of 1 px": pattern((rows + columns) % 2 == 0),
        "checkerboard of 8 px": pattern((rows // 8 + columns // 8) % 2 == 0),
        "vertical stripes": pattern(columns % 2 == 0),
        "horizontal stripes": pattern(rows % 2 == 0),
        "gradient": np.broadcast_to(columns * 255 // max(size_px - 1, 1), shape).astype(np.uint8),
        "noise": random.integers(0, 256, shape, dtype=np.uint8),
        "salt and pepper": random.choice(np.asarray([0, 255], dtype=np.uint8), shape),
    }
