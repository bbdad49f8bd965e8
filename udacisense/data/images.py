"""Image data sets: 8-bit pixels and labels, and seeded splits of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from udacisense.base.files import cache_folder
from udacisense.base.photos import fit_square, quiet_pillow, read_square
from udacisense.base.progress import progress
from udacisense.base.records import Resize, Signature
from udacisense.data.decoding import cached_squares
from udacisense.data.folder import LAYOUT, SPLITS, Folder, list_folder
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

MOST_IN_MEMORY_BYTES = 128_000_000  # of photos or their squares; a larger set is decoded once, and mapped from disk
NO_LABEL = -100  # of an image that a teacher alone speaks about


@dataclass(frozen=True)
class Photos:
    """Files of photos, none of which is opened until pixels are asked for."""

    files: tuple[Path, ...]
    size_px: int  # edge of the squares that they become
    description: str  # of the progress bar

    @cached_property
    def are_many(self) -> bool:
        """Whether their files or their squares take more than :data:`MOST_IN_MEMORY_BYTES`."""
        squares_bytes = 3 * self.size_px * self.size_px * len(self.files)
        return max(squares_bytes, sum(path.stat().st_size for path in self.files)) > MOST_IN_MEMORY_BYTES

    @cached_property
    def squares(self) -> tuple[Tensor, Tensor | None]:
        """All of them: uint8 (n, 3, size_px, size_px); where they are many, mapped from disk, with their digests."""
        with torch.inference_mode(mode=False):  # whoever asks first, they are there for training too
            if self.are_many:
                return cached_squares(self.files, self.size_px, self.description)
            return read_squares(self.files, self.size_px, self.description), None

    def some(self, rows: Tensor) -> Tensor:
        """Return some of them in memory, int64 (k,) → uint8 (k, 3, size_px, size_px); of few only those are read."""
        if "squares" in self.__dict__ or 4 * len(rows) > len(self.files):
            return self.squares[0][rows]
        return read_squares([self.files[row] for row in rows.tolist()], self.size_px, self.description)


@dataclass(frozen=True)
class Images:
    """Labelled images: in memory, or photos, which are decoded when their pixels are first asked for."""

    source: Tensor | Photos  # uint8 (m, 3, H, W), RGB
    labels: Tensor  # int64 (n,)
    rows: Tensor | None = None  # int64 (n,), which of the source's images these are; None: all of them

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def stored(self) -> Tensor:
        """Pixels of the whole source: uint8 (m, 3, H, W)."""
        return self.source if isinstance(self.source, Tensor) else self.source.squares[0]

    @property
    def digests(self) -> Tensor | None:
        """SHA-256 of each stored image, uint8 (m, 32), where they are mapped from disk."""
        return self.source.squares[1] if isinstance(self.source, Photos) else None

    @property
    def pixels(self) -> Tensor:
        """All pixels, uint8 (n, 3, H, W); a part of a set that is mapped from disk comes into memory."""
        if self.rows is None:
            return self.stored
        return self.source[self.rows] if isinstance(self.source, Tensor) else self.source.some(self.rows)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one image: (3, H, W)."""
        if isinstance(self.source, Photos):
            return 3, self.source.size_px, self.source.size_px
        return self.source.shape[1], self.source.shape[2], self.source.shape[3]

    @property
    def is_mapped(self) -> bool:
        """Whether the pixels lie on disk."""
        return isinstance(self.source, Photos) and self.source.are_many

    def at(self, chosen: Tensor) -> Tensor:
        """Return the pixels of some images, int64 (k,) → uint8 (k, 3, H, W), where they are stored."""
        chosen = chosen.to(self.stored.device)
        return self.stored[chosen if self.rows is None else self.rows[chosen]]

    def take(self, indices: Tensor) -> Images:
        """Return the images at ``indices``, int64 (k,), in that order."""
        if isinstance(self.source, Tensor):
            return Images(self.pixels[indices], self.labels[indices])
        return Images(self.source, self.labels[indices], indices if self.rows is None else self.rows[indices])

    def to(self, device: torch.device) -> Images:
        """Return them on a device; photos that lie on disk, or that the CPU decodes, stay there: their labels move."""
        if isinstance(self.source, Photos) and (self.is_mapped or device.type == "cpu"):
            return Images(self.source, self.labels.to(device), self.rows)
        return Images(self.pixels.to(device), self.labels.to(device))


@dataclass(frozen=True)
class DataSet:
    """A training and a test set of the same classes."""

    name: str
    class_names: tuple[str, ...]  # in output order
    train: Images
    test: Images
    n_skipped: int = 0  # files of the folder that are not read

    @property
    def size_px(self) -> int:
        """Edge of the images: H = W."""
        return self.train.shape[-1]

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 of classes, pixels and labels."""
        return _fingerprint(self.class_names, self.train, self.test)

    @cached_property
    def training_fingerprint(self) -> str:
        """Hex SHA-256 of the classes and the training images: of what a model is trained on."""
        return _fingerprint(self.class_names, self.train)


def load_dataset(source: str | Folder, *, size_px: int = 32, cache_dir: Path | None = None) -> DataSet:
    """Load a data set. Photos of a folder are listed, and decoded when their pixels are first asked for.

    They come into memory; a set that is large is decoded once, and mapped from the disk.

    Args:
        source: ``cifar100`` (downloaded once; the ten household classes are picked out), or a folder
            ``{train,test}/<class>/*`` of images in any size and mode, by its path or as it was listed.
        size_px: edge of the square that every image is fitted to.
        cache_dir: where the download is kept; None is the cache folder.

    Raises:
        InputError: the download failed, or something about the folder is wrong (named). A file that is no whole image
            is refused when the pixels are asked for.
    """
    if not 8 <= size_px <= 4096:
        raise InputError(f"The image size is {size_px} px; allowed is 8 to 4096.")
    if source == "cifar100":
        name, classes, n_skipped = "cifar100-household", HOUSEHOLD_CLASSES, 0
        train, test = _load_cifar100(cache_dir or cache_folder(), size_px)
    else:
        folder = source if isinstance(source, Folder) else list_folder(Path(source))
        name, classes, n_skipped = folder.root.resolve().name, _in_order(folder), len(folder.skipped)
        train, test = (_load_split(folder, split, classes, size_px) for split in SPLITS)
    return DataSet(name, classes, train, test, n_skipped)


def _load_cifar100(cache_dir: Path, size_px: int) -> tuple[Images, Images]:
    from torchvision.datasets import CIFAR100

    try:
        # torchvision unpickles these files only after it has verified the MD5 of each against the official archive's.
        parts = [CIFAR100(root=str(cache_dir), train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError) as exc:
        raise InputError(
            f"CIFAR-100 could not be downloaded to {cache_dir} ({exc}); connect to the internet, or give"
            f" --data DIR with a folder {LAYOUT}."
        ) from exc
    return tuple(_pick_household(part.data, np.asarray(part.targets), size_px) for part in parts)  # type: ignore[return-value]


def _pick_household(data: NDArray[np.uint8], targets: NDArray[np.int64], size_px: int) -> Images:
    """Keep the household classes, renumbered 0..9; ``data`` is uint8 (n, 32, 32, 3)."""
    chosen = [np.flatnonzero(targets == cifar_id) for cifar_id in CIFAR100_IDS]
    labels = torch.repeat_interleave(torch.arange(len(chosen)), torch.tensor([len(c) for c in chosen]))
    fitted = np.stack([fit_square(Image.fromarray(data[i]), size_px) for i in np.concatenate(chosen)])
    return Images(torch.from_numpy(fitted).permute(0, 3, 1, 2).contiguous(), labels)


def _in_order(folder: Folder) -> tuple[str, ...]:
    """Return the classes in output order: sorted, but for the household task's own."""
    return HOUSEHOLD_CLASSES if set(folder.class_names) == set(HOUSEHOLD_CLASSES) else folder.class_names


def _load_split(folder: Folder, split: str, classes: tuple[str, ...], size_px: int) -> Images:
    by_class = dict(zip(folder.class_names, folder.files[split], strict=True))
    photos = Photos(tuple(path for name in classes for path in by_class[name]), size_px, f"Reading {split} images")
    counts = torch.tensor([len(by_class[name]) for name in classes])
    return Images(photos, torch.repeat_interleave(torch.arange(len(classes)), counts))


def read_squares(files: Sequence[Path], size_px: int, description: str) -> Tensor:
    """Read image files into memory, several at once, as :func:`fit_square` gives them.

    Returns:
        uint8 (n, 3, size_px, size_px).

    Raises:
        InputError: a file is no whole image (it is named).
    """
    pixels = np.empty((len(files), 3, size_px, size_px), dtype=np.uint8)

    def load(index: int) -> None:
        pixels[index] = read_square(files[index], size_px).transpose(2, 0, 1)

    with (
        quiet_pillow(),
        ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1)) as pool,
        progress(description, len(files)) as advance,
    ):
        for _ in pool.map(load, range(len(files))):
            advance(1)
    return torch.from_numpy(pixels)


def _fingerprint(classes: Sequence[str], *splits: Images) -> str:
    digest = hashlib.sha256("\n".join(classes).encode())
    for images in splits:
        digest.update(f"\n{(len(images), *images.shape)}\n".encode())
        if images.digests is None:
            digest.update(images.pixels.numpy().data)
        else:
            digest.update(images.digests.numpy().data)
            digest.update(b"" if images.rows is None else images.rows.numpy().data)
        digest.update(images.labels.numpy().data)
    return digest.hexdigest()


def n_shared(dataset: DataSet) -> int:
    """Return how many test images are, pixel by pixel, in the training images too."""

    def digests(images: Images) -> list[bytes]:
        if images.digests is None:
            return [hashlib.sha256(image.numpy().data).digest() for image in images.pixels]
        return [row.tobytes() for row in images.digests.numpy()]

    known = set(digests(dataset.train))
    return sum(digest in known for digest in digests(dataset.test))


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
    return images.take(shuffled[torch.argsort(turns(images.labels[shuffled]), stable=True)[:n]])


def turns(labels: Tensor) -> Tensor:
    """Return each one's place within its class, in the order that is given: int64 (n,) of int64 (n,)."""
    places = torch.empty_like(labels)
    for label in set(labels.tolist()):
        mine = labels == label
        places[mine] = torch.arange(int(mine.sum()))
    return places


def spread_rows(count: int, most: int) -> NDArray[np.int64]:
    """Return which of so many rows to take, evenly spread: int64 (at most ``most``,)."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


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
