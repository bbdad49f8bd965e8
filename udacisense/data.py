"""Image data sets in memory: 8-bit pixels and labels, seeded splits, augmented batches."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from typing_extensions import Self

from udacisense.errors import InputError
from udacisense.types import Resize, Signature

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
    pixels = torch.empty((len(files), 3, size_px, size_px), dtype=torch.uint8)

    def load(index: int) -> None:
        pixels[index] = torch.from_numpy(read_square(files[index], size_px)).permute(2, 0, 1)

    with ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1)) as pool:
        for _ in pool.map(load, range(len(files))):
            pass
    labels = torch.repeat_interleave(torch.arange(len(classes)), torch.tensor(counts))
    return Images(pixels, labels)


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


def normalise(pixels: Tensor, *, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> Tensor:
    """Return ``(pixels / 255 - mean) / std`` by channel: float32 (n, 3, H, W) of uint8 (n, 3, H, W)."""
    return _scaled(pixels, _channels(mean, pixels.device), _channels(std, pixels.device))


def _channels(values: Sequence[float], device: torch.device) -> Tensor:
    return torch.tensor(tuple(values), dtype=torch.float32, device=device).view(1, 3, 1, 1)


def _scaled(pixels: Tensor, centre: Tensor, scale: Tensor) -> Tensor:
    return pixels.to(torch.float32).div_(255).sub_(centre).div_(scale)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How one epoch sees n images: all that is random in it, drawn on the CPU, so that every device sees the same."""

    order: Tensor  # int64 (k,), which images, in this order
    shifts: Tensor | None = None  # int64 (n, 2), rows and columns that each moves; None: as they are
    flips: Tensor | None = None  # bool (n,), which are mirrored
    shares: Tensor | None = None  # float32 (n,), of each in its blend with its partner, 1: not blended; None: no blends
    partners: Tensor | None = None  # int64 (n,), and how each partner is moved and mirrored in the blend:
    partner_shifts: Tensor | None = None
    partner_flips: Tensor | None = None
    rows: Tensor | None = None  # int64 (n,), number of each one's view, which comes round again; None: seen this once

    def to(self, device: torch.device) -> Plan:
        """Return the plan on a device."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return Plan(**{name: value.to(device) for name, value in given.items() if value is not None})


@dataclass(frozen=True, kw_only=True)
class Blend:
    """What two images a blended one is made of; column 0 is the image itself."""

    shares: Tensor  # float32 (b,), of the image itself
    labels: Tensor  # int64 (b, 2)
    folders: Tensor | None  # int64 (b, 2), class of each by the folder that it lies in


class Batch(tuple[Tensor, Tensor]):
    """Images float32 (b, 3, H, W) and labels int64 (b,), with what training may want to know beside them."""

    rows: Tensor | None  # int64 (b,), see Plan
    blend: Blend | None  # None: nothing to know beside the labels
    highest: int  # the highest label of the data set
    n_labelled: Tensor | None  # labelled images of all processes' batches over their number; None: one process

    def __new__(
        cls,
        images: Tensor,
        labels: Tensor,
        *,
        highest: int,
        rows: Tensor | None = None,
        blend: Blend | None = None,
        n_labelled: Tensor | None = None,
    ) -> Batch:
        """Make a pair with its details."""
        made = super().__new__(cls, (images, labels))
        made.highest, made.rows, made.blend, made.n_labelled = highest, rows, blend, n_labelled
        return made


class Batches:
    """Normalised batches of a data set, repeatable by epoch.

    Order and augmentation depend on ``(seed, epoch)`` alone, and not on what was iterated before: an epoch that is
    resumed in a new process equals an uninterrupted one. Augmentation is drawn per image: a crop from the image
    padded by reflection with H/8 pixels (4 at 32 px; He et al. 2016, section 4.2, with reflection for zeros), and a
    horizontal flip of every second image by chance.

    Args:
        images: what to iterate over.
        batch_size: images a batch; the last one may be smaller. With ``shuffle``, a last batch of a single image
            joins the one before it, because BatchNorm cannot train on one value a channel.
        shuffle: a new order each epoch.
        augment: crop and flip.
        seed: of order and augmentation.
        mean: of RGB scaled to 0..1.
        std: likewise.

    Raises:
        InputError: ``batch_size`` is less than 1, or ``seed`` is negative.
    """

    n_rows: int | None = None  # different views, where they come round again
    folders: Tensor | None = None  # int64 (n,), class of each image by its folder
    n_folders = 0

    def __init__(
        self,
        images: Images,
        *,
        batch_size: int,
        shuffle: bool = False,
        augment: bool = False,
        seed: int = 0,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"The batch size is {batch_size}; allowed is 1 or more.")
        if seed < 0:
            raise InputError(f"The seed is {seed}; allowed is 0 or more.")
        self.images = images
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.augment = augment
        self.seed = seed
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.epoch = 0
        self.part = (0, 1)
        self._highest = int(images.labels.max()) if len(images) else NO_LABEL
        self._place(torch.device("cpu"))

    def _place(self, device: torch.device) -> None:
        self.images = Images(self.images.pixels.to(device), self.images.labels.to(device))
        self._centre, self._scale = _channels(self.mean, device), _channels(self.std, device)
        if self.folders is not None:
            self.folders = self.folders.to(device)

    def on(self, device: torch.device, part: tuple[int, int] = (0, 1)) -> Self:
        """Return the same batches with images that live on a device, or process ``part[0]``'s of ``part[1]`` parts.

        Part by part, the images of a batch are dealt out in turn; where they do not go up, the last ones are left out.
        """
        moved = copy.copy(self)
        moved.part = part
        moved._place(device)
        return moved

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, whose order and augmentation the next iteration has."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self._bounds(len(self.images)))

    def _bounds(self, n: int) -> list[tuple[int, int]]:
        """Return where each batch starts and ends in an order of ``n`` images."""
        joins = self.shuffle and n % self.batch_size == 1 and n > self.batch_size > 1
        starts = range(0, n - 1 if joins else n, self.batch_size)
        return [(start, n if start == starts[-1] else start + self.batch_size) for start in starts]

    def plan(self) -> Plan:
        """Return how the chosen epoch sees the images; on the CPU."""
        n = len(self.images)
        mixed = np.random.SeedSequence([self.seed, self.epoch]).generate_state(2, np.uint32)
        generator = torch.Generator().manual_seed(int(mixed[0]) << 32 | int(mixed[1]))
        order = torch.randperm(n, generator=generator) if self.shuffle else torch.arange(n)
        if not self.augment:
            return Plan(order=order)
        return Plan(order=order, **draw_crops(n, self.images.pixels.shape[2], generator))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        plan = self.plan().to(self.images.pixels.device)
        rank, count = self.part
        for start, end in self._bounds(len(plan.order)):
            whole = plan.order[start : start + (end - start) // count * count]
            yield self._batch(whole[rank::count], plan, whole if count > 1 else None)

    def views(self, chosen: Tensor, plan: Plan) -> Tensor:
        """Return images as a plan sees them: float32 (b, 3, H, W), normalised; ``chosen`` is int64 (b,)."""
        pixels = self.images.pixels[chosen]
        if plan.shifts is not None and plan.flips is not None:
            pixels = crop_and_flip(pixels, plan.shifts[chosen], plan.flips[chosen])
        if plan.shares is not None and plan.partners is not None:
            other = self.images.pixels[plan.partners[chosen]]
            if plan.partner_shifts is not None and plan.partner_flips is not None:
                other = crop_and_flip(other, plan.partner_shifts[chosen], plan.partner_flips[chosen])
            share = plan.shares[chosen].view(-1, 1, 1, 1)
            pixels = torch.lerp(other.float(), pixels.float(), share).round_().to(torch.uint8)
        return _scaled(pixels, self._centre, self._scale)

    def _batch(self, chosen: Tensor, plan: Plan, whole: Tensor | None) -> Batch:
        return Batch(
            self.views(chosen, plan),
            self._labels(chosen, plan),
            highest=self._highest,
            rows=None if plan.rows is None else plan.rows[chosen],
            blend=self._blend(chosen, plan),
            n_labelled=None if whole is None else (self._labels(whole, plan) != NO_LABEL).sum() / self.part[1],
        )

    def _labels(self, chosen: Tensor, plan: Plan) -> Tensor:
        labels = self.images.labels[chosen]
        return labels if plan.shares is None else torch.where(plan.shares[chosen] < 1, NO_LABEL, labels)

    def _blend(self, chosen: Tensor, plan: Plan) -> Blend | None:
        if self.folders is None and plan.partners is None:
            return None
        pair = torch.stack([chosen, chosen if plan.partners is None else plan.partners[chosen]], 1)
        return Blend(
            shares=torch.ones_like(chosen, dtype=torch.float32) if plan.shares is None else plan.shares[chosen],
            labels=self.images.labels[pair],
            folders=None if self.folders is None else self.folders[pair],
        )


def draw_crops(n: int, edge: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw the ``shifts`` and ``flips`` of a :class:`Plan` for n images of an edge in pixels."""
    pad = edge // 8
    shifts = torch.randint(-pad, pad + 1, (n, 2), generator=generator)
    return {"shifts": shifts, "flips": torch.rand(n, generator=generator) < 0.5}


def crop_and_flip(pixels: Tensor, shifts: Tensor, flips: Tensor) -> Tensor:
    """Crop from an image padded by reflection, and mirror it; one gather for the whole batch.

    Move each image by (rows, columns), filling by reflection, then mirror where ``flips``.

    uint8 (b, 3, H, W), int64 (b, 2), bool (b,) → uint8 (b, 3, H, W).
    """
    count, _, height, width = pixels.shape
    rows = _reflect(torch.arange(height, device=pixels.device) + shifts[:, :1], height)
    columns = _reflect(torch.arange(width, device=pixels.device) + shifts[:, 1:], width)
    columns = torch.where(flips[:, None], columns.flip(1), columns)
    image = torch.arange(count, device=pixels.device)[:, None, None]
    moved = pixels.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2).contiguous()


def _reflect(indices: Tensor, size: int) -> Tensor:
    """Reflect indices into 0..size-1 without repeating the edge: -1 → 1, size → size-2."""
    last = size - 1
    from_last = torch.sub(last, torch.abs(indices))
    return torch.sub(last, torch.abs(from_last))


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
