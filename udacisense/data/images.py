"""Image data sets in memory: 8-bit pixels and labels, seeded splits, augmented batches."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from udacisense.base.progress import progress
from udacisense.base.records import Resize, Signature
from udacisense.errors import InputError

HOUSEHOLD_CLASSES: tuple[str, ...] = (
    "clock",
    "keyboard",
    "lamp",
    "telephone",
    "television",
    "bed",
    "chair",
    "couch",
    "table",
    "wardrobe",
)
CIFAR100_IDS = (22, 39, 40, 86, 87, 5, 20, 25, 84, 94)  # the household classes among CIFAR-100's "fine" labels
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".tif", ".tiff", ".webp"})
# Those alone, whatever a file is called: Pillow would start Ghostscript for PostScript that is named like a photo.
_IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
NO_LABEL = -100  # of an image that a teacher alone speaks about
_LAYOUT = "{train,test}/<class>/*.png"


@dataclass(frozen=True)
class Images:
    """Labelled images in memory."""

    pixels: Tensor  # uint8 (n, 3, H, W), RGB
    labels: Tensor  # int64 (n,)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> Images:
        """Return the images at ``indices``, int64 (k,), in that order."""
        return Images(self.pixels[indices], self.labels[indices])


@dataclass(frozen=True)
class DataSet:
    """A training and a test set of the same classes."""

    name: str
    class_names: tuple[str, ...]  # in output order
    train: Images
    test: Images
    fingerprint: str  # hex SHA-256 of classes, pixels and labels

    @property
    def training_fingerprint(self) -> str:
        """Hex SHA-256 of the classes and the training images: of what a model is trained on."""
        return _fingerprint(self.class_names, self.train)


def load_dataset(source: str, *, size_px: int = 32, cache_dir: Path | None = None) -> DataSet:
    """Load a data set into memory.

    Args:
        source: ``cifar100`` (downloaded once; the ten household classes are picked out), or a folder
            ``{train,test}/<class>/*`` of images in any size and mode.
        size_px: edge of the square that every image is fitted to.
        cache_dir: where the download is kept; None is ``~/.cache/udacisense``.

    Raises:
        InputError: the download failed, or something about the folder or a file in it is wrong (named).
    """
    if not 8 <= size_px <= 4096:
        raise InputError(f"The image size is {size_px} px; allowed is 8 to 4096.")
    if source == "cifar100":
        name, classes = "cifar100-household", HOUSEHOLD_CLASSES
        train, test = _load_cifar100(cache_dir or Path.home() / ".cache" / "udacisense", size_px)
    else:
        root = Path(source)
        classes = _folder_classes(root)
        name = root.resolve().name
        train, test = (_load_split(root / split, classes, size_px) for split in ("train", "test"))
    return DataSet(name, classes, train, test, _fingerprint(classes, train, test))


def _load_cifar100(cache_dir: Path, size_px: int) -> tuple[Images, Images]:
    from torchvision.datasets import CIFAR100

    try:
        # torchvision unpickles these files only after it has verified the MD5 of each against the official archive's.
        parts = [CIFAR100(root=str(cache_dir), train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError) as exc:
        raise InputError(
            f"CIFAR-100 could not be downloaded to {cache_dir} ({exc}); connect to the internet, or give"
            f" --data DIR with a folder {_LAYOUT}."
        ) from exc
    return tuple(_pick_household(part.data, np.asarray(part.targets), size_px) for part in parts)  # type: ignore[return-value]


def _pick_household(data: NDArray[np.uint8], targets: NDArray[np.int64], size_px: int) -> Images:
    """Keep the household classes, renumbered 0..9; ``data`` is uint8 (n, 32, 32, 3)."""
    chosen = [np.flatnonzero(targets == cifar_id) for cifar_id in CIFAR100_IDS]
    labels = torch.repeat_interleave(torch.arange(len(chosen)), torch.tensor([len(c) for c in chosen]))
    fitted = np.stack([fit_square(Image.fromarray(data[i]), size_px) for i in np.concatenate(chosen)])
    return Images(torch.from_numpy(fitted).permute(0, 3, 1, 2).contiguous(), labels)


def _folder_classes(root: Path) -> tuple[str, ...]:
    if not root.exists():
        raise InputError(f"{root} does not exist; give --data cifar100, or a folder {_LAYOUT}.")
    if not root.is_dir():
        raise InputError(f"{root} is a file; a data set is a folder {_LAYOUT}.")
    names: dict[str, list[str]] = {}
    for split in ("train", "test"):
        folder = root / split
        if not folder.is_dir():
            raise InputError(f"{root} has no folder {split!r}; a data set is a folder {_LAYOUT}.")
        names[split] = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    for split, other in (("train", "test"), ("test", "train")):
        lone = [name for name in names[split] if name not in names[other]]
        if lone:
            raise InputError(f"The class {lone[0]!r} is in {root / split} and not in {root / other}; both need it.")
    classes = names["train"]
    if len(classes) < 2:
        found = f"only the class {classes[0]!r}" if classes else "no class folders"
        raise InputError(f"{root / 'train'} has {found}; a classifier needs at least two, as in {_LAYOUT}.")
    return HOUSEHOLD_CLASSES if set(classes) == set(HOUSEHOLD_CLASSES) else tuple(classes)


def _load_split(folder: Path, classes: tuple[str, ...], size_px: int) -> Images:
    # A validation split takes at least one training image of each class and must leave one.
    least = 2 if folder.name == "train" else 1
    files: list[Path] = []
    counts: list[int] = []
    for name in classes:
        found = sorted(p for p in (folder / name).iterdir() if _is_image_file(p))
        if len(found) < least:
            raise InputError(f"{folder / name} has {len(found)} images; at least {least} are needed.")
        files += found
        counts.append(len(found))
    pixels = read_squares(files, size_px, f"Reading {folder.name} images")
    labels = torch.repeat_interleave(torch.arange(len(classes)), torch.tensor(counts))
    return Images(pixels, labels)


def read_squares(files: Sequence[Path], size_px: int, description: str) -> Tensor:
    """Read image files, several at once, as :func:`fit_square` gives them: uint8 (n, 3, size_px, size_px).

    Raises:
        InputError: a file is no whole image (it is named).
    """
    pixels = torch.empty((len(files), 3, size_px, size_px), dtype=torch.uint8)

    def load(index: int) -> None:
        pixels[index] = torch.from_numpy(read_square(files[index], size_px)).permute(2, 0, 1)

    with (
        ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1)) as pool,
        progress(description, len(files)) as advance,
    ):
        for _ in pool.map(load, range(len(files))):
            advance(1)
    return pixels


def _is_image_file(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def read_square(path: Path, size_px: int) -> NDArray[np.uint8]:
    """Read an image file as :func:`fit_square` gives it.

    Raises:
        InputError: the file is no whole image (it is named).
    """
    try:
        with Image.open(path, formats=_IMAGE_FORMATS) as photo:
            return fit_square(photo, size_px)
    # Pillow tells of damage by whatever its decoders run into: OSError, SyntaxError, IndexError, struct.error, ...
    except Exception as exc:
        known = "it is no image that Pillow knows" if isinstance(exc, UnidentifiedImageError) else str(exc)
        reason = known or type(exc).__name__
        raise InputError(f"The image {path} cannot be read: {reason}; repair or remove it.") from exc


def fit_square(photo: Image.Image, size_px: int) -> NDArray[np.uint8]:
    """Turn a photo into the square that models are fed with: uint8 (size_px, size_px, 3), RGB.

    The EXIF orientation is applied, the mode becomes 8-bit RGB (16-bit samples lose their low byte, transparency
    is dropped), the centre square is cut out (offsets rounded down) and resized with Pillow's antialiased
    ``BILINEAR`` filter.
    """
    rgb = _to_rgb(ImageOps.exif_transpose(photo))
    edge = min(rgb.size)
    left, top = (rgb.width - edge) // 2, (rgb.height - edge) // 2
    square = rgb.crop((left, top, left + edge, top + edge))
    return np.array(square.resize((size_px, size_px), Image.Resampling.BILINEAR))


def _to_rgb(photo: Image.Image) -> Image.Image:
    if photo.mode == "I" or photo.mode.startswith("I;16"):
        # Pillow would clip 16-bit samples at 255 instead of scaling them.
        samples = np.asarray(photo).astype(np.int64)
        return Image.fromarray(np.clip(samples >> 8, 0, 255).astype(np.uint8)).convert("RGB")
    if photo.mode == "P":
        # By way of RGBA: Pillow warns of palettes with transparency otherwise.
        return photo.convert("RGBA").convert("RGB")
    return photo.convert("RGB")


def _fingerprint(classes: Sequence[str], *splits: Images) -> str:
    digest = hashlib.sha256("\n".join(classes).encode())
    for images in splits:
        digest.update(f"\n{tuple(images.pixels.shape)}\n".encode())
        digest.update(images.pixels.numpy().data)
        digest.update(images.labels.numpy().data)
    return digest.hexdigest()


def images_sha256(images: Images) -> str:
    """Return the hex SHA-256 of pixels and labels."""
    return _fingerprint((), images)


def stratified_split(images: Images, fraction: float, *, seed: int) -> tuple[Images, Images]:
    """Split by class: return (rest, drawn), where ``drawn`` has ``fraction`` of each class, rounded.

    At least one image of each class lands on either side; both keep the original order.

    Raises:
        InputError: the fraction is not between 0 and 1, or a class has a single image.
    """
    if not 0 < fraction < 1:
        raise InputError(f"The fraction to split off is {fraction}; allowed is more than 0 and less than 1.")
    generator = torch.Generator().manual_seed(seed)
    is_drawn = torch.zeros(len(images), dtype=torch.bool)
    for label in sorted(set(images.labels.tolist())):
        members = (images.labels == label).nonzero().flatten()
        if len(members) < 2:
            raise InputError(f"Class {label} has a single image; a split needs at least 2 of each class.")
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        is_drawn[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return images.take((~is_drawn).nonzero().flatten()), images.take(is_drawn.nonzero().flatten())


def stratified_draw(images: Images, n: int, *, seed: int) -> Images:
    """Draw ``n`` different images, as evenly over the classes as they allow, the classes taking turns.

    Raises:
        InputError: ``n`` is less than 1 or more than there are.
    """
    if not 1 <= n <= len(images):
        raise InputError(f"Cannot draw {n} images; allowed is 1 to {len(images)}.")
    shuffled = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    labels = images.labels[shuffled]
    turns = torch.empty_like(labels)  # an image's place within its class, in shuffled order
    for label in set(labels.tolist()):
        mine = labels == label
        turns[mine] = torch.arange(int(mine.sum()))
    return images.take(shuffled[torch.argsort(turns, stable=True)[:n]])


def make_signature(
    class_names: Sequence[str],
    *,
    size_px: int = 32,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> Signature:
    """Return the signature of a classifier for one image of ``size_px``: input ``input``, output ``logits``."""
    return Signature(
        input_name="input",
        output_name="logits",
        input_shape=(1, 3, size_px, size_px),
        output_shape=(1, len(class_names)),
        dtype="float32",
        layout="NCHW",
        resize=Resize(method="bilinear", antialias=True),
        size_px=size_px,
        mean=(float(mean[0]), float(mean[1]), float(mean[2])),
        std=(float(std[0]), float(std[1]), float(std[2])),
        labels=tuple(class_names),
    )


def edge_px(input_size: int | tuple[int, ...]) -> int:
    """Return H = W of a size in pixels, or of a shape (1, 3, H, W) or (3, H, W).

    Raises:
        InputError: it is none.
    """
    if isinstance(input_size, int):
        return input_size
    shape = input_size[1:] if len(input_size) == 4 else input_size
    if len(shape) != 3 or shape[0] != 3 or shape[1] != shape[2]:
        raise InputError(f"The input size is {input_size}; give H = W in pixels, or a shape (1, 3, H, H).")
    return shape[1]
