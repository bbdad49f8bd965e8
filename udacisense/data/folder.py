"""A folder of photos, ``{train,test}/<class>/*``: which files are read, and which are not, and why."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from udacisense.base.files import why_absent
from udacisense.base.photos import IMAGE_FORMATS, IMAGE_SUFFIXES, quiet_pillow
from udacisense.errors import InputError, did_you_mean

SPLITS = ("train", "test")
LAYOUT = "{train,test}/<class>/*.png"
LEAST = {"train": 2, "test": 1}  # images of a class: a validation split takes one of training, and must leave one
_OF_THE_SYSTEM = frozenset({"thumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir"})
_NAMED = 8  # of what is in a folder
_UNREAD = {
    ".heic": "HEIC is not read; save it as JPEG",
    ".heif": "HEIF is not read; save it as JPEG",
    ".avif": "AVIF is not read; save it as JPEG",
}
CIFAR_PX = 32
_LOOKED_AT = 32  # photos whose size stands for all


@dataclass(frozen=True)
class Skipped:
    """A file that is no part of the data, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Folder:
    """What is in a folder of photos."""

    root: Path
    class_names: tuple[str, ...]  # sorted, in Unicode's composed form (NFC)
    files: dict[str, tuple[tuple[Path, ...], ...]]  # of each split: the files of each class, sorted
    skipped: tuple[Skipped, ...]
    spelled_twice: tuple[str, ...]  # classes whose folders differ in Unicode form alone, and are one class

    def flat(self, split: str) -> list[Path]:
        """Return the files of a split, class by class."""
        return [path for files in self.files[split] for path in files]

    def counts(self, split: str) -> list[int]:
        """Return the number of files of each class."""
        return [len(files) for files in self.files[split]]


def list_folder(root: Path) -> Folder:
    """List the photos of a data set. No file is opened.

    Raises:
        InputError: the layout is none, or a class has too few images.
    """
    if not root.exists():
        raise InputError(f"{root} does not exist{why_absent(root)}; give --data cifar100, or a folder {LAYOUT}.")
    if not root.is_dir():
        raise InputError(f"{root} is a file; a data set is a folder {LAYOUT}: unpack an archive first.")
    skipped: list[Skipped] = []
    folders = {split: _class_folders(root, split, skipped) for split in SPLITS}
    for split, other in (SPLITS, SPLITS[::-1]):
        lone = [name for name in folders[split] if name not in folders[other]]
        if lone:
            near = did_you_mean(lone[0], folders[other]).replace("Did you mean", "Is it")
            raise InputError(
                f"The class {lone[0]!r} is in {root / split} and not in {root / other}; both need it.{near}"
            )
    classes = tuple(sorted(folders["train"]))
    if unnamed := [name for name in classes if not name.isprintable()]:
        raise InputError(
            f"The class {unnamed[0]!r} of {root} has characters that are no text (UTF-8); rename its folder."
        )
    if len(classes) < 2:
        found = f"only the class {classes[0]!r}" if classes else f"no class folders ({_what_is_in(root / 'train')})"
        raise InputError(f"{root / 'train'} has {found}; a classifier needs at least two, as in {LAYOUT}.")
    files = {split: tuple(tuple(_photos(folders[split][name], skipped)) for name in classes) for split in SPLITS}
    for split in SPLITS:
        for name, found_files in zip(classes, files[split], strict=True):
            if len(found_files) < LEAST[split]:
                raise InputError(
                    f"{root / split / name} has {len(found_files)} images; at least {LEAST[split]} are needed"
                    f"{_why_few(folders[split][name], skipped)}."
                )
    spellings = {name: {p.name for split in SPLITS for p in folders[split][name]} for name in classes}
    twice = tuple(name for name in classes if len(spellings[name]) > 1)
    return Folder(root, classes, files, tuple(skipped), twice)


def _class_folders(root: Path, split: str, skipped: list[Skipped]) -> dict[str, list[Path]]:
    """Return class → its folders: file systems keep ``é`` as one character or as two, and both are one class."""
    if not (root / split).is_dir():
        raise InputError(
            f"{root} has no folder {split!r} ({_what_is_in(root)}); a data set is a folder {LAYOUT}: give the one that "
            "holds both, and rename or split what is called otherwise."
        )
    found: dict[str, list[Path]] = {}
    for path in _visible(root / split):
        if path.is_dir():
            found.setdefault(unicodedata.normalize("NFC", path.name), []).append(path)
        elif path.suffix.lower() in (IMAGE_SUFFIXES | _UNREAD.keys()):
            skipped.append(Skipped(path, "it lies in no folder of a class"))
    return found


def _what_is_in(folder: Path) -> str:
    names = [f"{path.name}/" if path.is_dir() else path.name for path in _visible(folder)]
    more = ", ..." if len(names) > _NAMED else ""
    return f"it has {', '.join(names[:_NAMED])}{more}" if names else "it is empty"


def _why_few(folders: Sequence[Path], skipped: Iterable[Skipped]) -> str:
    """Name the first file of a class that is not read, and why: half a sentence, or nothing where there is none."""
    mine = (s for s in skipped if any(folder in s.path.parents for folder in folders))
    return next((f": {s.path.name} is not read, {s.reason}" for s in mine), "")


def _photos(folders: Iterable[Path], skipped: list[Skipped]) -> Iterator[Path]:
    for folder in folders:
        for path in _visible(folder):
            if path.is_dir():
                below = [p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES]
                skipped.extend(Skipped(p, "it lies in a folder below its class") for p in sorted(below))
            elif path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
                yield path
            else:
                what = f"{path.suffix} is no photo's ending" if path.suffix else "its name has no ending"
                if not path.is_file():
                    what = "it is a link to nothing" if path.is_symlink() else "it is no file, but a pipe or a device"
                skipped.append(Skipped(path, _UNREAD.get(path.suffix.lower(), what)))


def _visible(folder: Path) -> list[Path]:
    """Return what a person put into a folder, sorted."""
    return sorted(p for p in folder.iterdir() if not p.name.startswith(".") and p.name.lower() not in _OF_THE_SYSTEM)


def usual_size(folder: Folder) -> tuple[int, int] | None:
    """Return width and height of a photo in the middle, by its short edge, of a few that are spread over the classes.

    Their headers alone are read; those that cannot be are left out. None: none of them can be.
    """
    files = folder.flat("train")
    sizes: list[tuple[int, int]] = []
    with quiet_pillow():
        for path in files[:: -(-len(files) // _LOOKED_AT)]:
            try:
                with Image.open(path, formats=IMAGE_FORMATS) as photo:
                    sizes.append(photo.size)
            except Exception:  # noqa: S112 - reading it whole says which file, and why
                continue
    return sorted(sizes, key=min)[len(sizes) // 2] if sizes else None


def fitting_px(short_px: int, resolution_px: int) -> int:
    """Return the edge that images are fed at.

    Small images, as CIFAR's, are fed as they are: the network enlarges them itself. Photos are fed at the network's own
    resolution, never enlarged beforehand.

    Args:
        short_px: short edge of the images.
        resolution_px: edge that the network computes at.
    """
    return CIFAR_PX if short_px <= CIFAR_PX else min(short_px, resolution_px)
