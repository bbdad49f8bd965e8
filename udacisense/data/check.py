"""What is in a folder of photos, and what of it would spoil a training or its figures."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from udacisense.base.decoder import PhotoFacts
from udacisense.base.records import record
from udacisense.data.decoding import photo_facts
from udacisense.data.folder import SPLITS, Folder, list_folder

UNEQUAL = 10  # the largest class has so many times the photos of the smallest, or more
# Thumbnails of 16 × 16 grey pixels correlate so well, or better, where a photo was compressed again, brightened or
# saved at another size.
_ALIKE = 0.99
_LEAST_CONTRAST = 1.0  # standard deviation of a thumbnail: one of an even surface tells nothing
_EVEN = 2  # grey levels between the darkest and the brightest of a thumbnail
_THIN_PX, _LONG = 16, 4
_AT_ONCE = 256  # test photos that are held against all training photos
_SIXTEEN_BITS = frozenset({"I", "I;16", "I;16B", "I;16L", "F"})


@record
class Finding:
    """Something that was found in some photos."""

    kind: str
    spoils: bool  # a training, or its figures
    n_photos: int
    sentence: str
    photos: tuple[tuple[str, ...], ...]  # each photo, or the photos that belong together, below the folder


@record
class DataReport:
    """What ``data check`` found; ``--json``."""

    schema_version: Literal[1]
    folder: str
    train: dict[str, int]  # class -> photos
    test: dict[str, int]
    formats: dict[str, int]
    short_edges_px: tuple[int, int, int] | None  # smallest, median, largest; None: none can be read
    findings: tuple[Finding, ...]

    @property
    def spoils(self) -> bool:
        """Whether something would spoil a training or its figures."""
        return any(finding.spoils for finding in self.findings)


@dataclass(frozen=True)
class _Photo:
    """A photo, and where it stands."""

    name: str  # below the folder
    split: str
    label: str
    facts: PhotoFacts


def check_folder(root: Path) -> DataReport:
    """Read every photo of a data set and tell what is odd.

    Raises:
        InputError: the folder's layout is none.
    """
    folder = list_folder(root)
    places = [
        (path, split, label)
        for split in SPLITS
        for label, files in zip(folder.class_names, folder.files[split], strict=True)
        for path in files
    ]
    facts = photo_facts([path for path, _, _ in places])
    photos = [
        _Photo(str(path.relative_to(root)), split, label, found)
        for (path, split, label), found in zip(places, facts, strict=True)
    ]
    whole = [photo for photo in photos if photo.facts.error is None]
    edges = sorted(min(p.facts.width_px, p.facts.height_px) for p in whole)
    return DataReport(
        schema_version=1,
        folder=str(root),
        train=dict(zip(folder.class_names, folder.counts("train"), strict=True)),
        test=dict(zip(folder.class_names, folder.counts("test"), strict=True)),
        formats=dict(Counter(photo.facts.form for photo in whole).most_common()),
        short_edges_px=(edges[0], edges[len(edges) // 2], edges[-1]) if edges else None,
        findings=tuple(
            f for f in (*_of_contents(photos, whole), *_of_each(whole), *_of_the_folder(folder)) if f.n_photos
        ),
    )


def _of_contents(photos: Sequence[_Photo], whole: Sequence[_Photo]) -> Iterator[Finding]:
    broken = [(photo.name, photo.facts.error or "") for photo in photos if photo.facts.error is not None]
    yield Finding(
        kind="unreadable",
        spoils=True,
        n_photos=len(broken),
        sentence="photos that cannot be read, and that training refuses: repair or remove them",
        photos=tuple(broken),
    )
    same = [group for group in _grouped(whole) if len(group) > 1]
    leaked = [group for group in same if len({p.split for p in group}) > 1]
    yield _of_groups(
        "in-train-and-test",
        leaked,
        len([p for group in leaked for p in group if p.split == "test"]),
        "test photos that are in train too, pixel by pixel, and flatter the model: remove them from one side",
    )
    near = _near(whole)
    yield _of_groups(
        "nearly-in-train-and-test",
        near,
        len({test.name for test, _ in near}),
        "test photos that are in train too, compressed or sized otherwise, and flatter the model: look at them",
    )
    disputed = [group for group in same if len({p.label for p in group}) > 1]
    yield _of_groups(
        "in-two-classes",
        disputed,
        sum(map(len, disputed)),
        "photos that are in two classes: one of their labels is wrong",
    )
    repeated = [g for g in same if len({(p.split, p.label) for p in g}) == 1]
    yield _of_groups(
        "repeated",
        repeated,
        sum(len(g) - 1 for g in repeated),
        "photos that repeat another",
        spoils=False,
    )


def _of_each(whole: Sequence[_Photo]) -> Iterator[Finding]:
    even = [p for p in whole if np.ptp(np.frombuffer(bytes.fromhex(p.facts.thumbnail), np.uint8)) <= _EVEN]
    thin = [p for p in whole if _is_thin(p.facts)]
    for kind, sentence, chosen in (
        ("turned", "photos that EXIF turns, which is applied", [p for p in whole if p.facts.orientation != 1]),
        ("cmyk", "photos in CMYK, which are converted to RGB", [p for p in whole if p.facts.mode == "CMYK"]),
        (
            "sixteen-bit",
            "photos of more than 8 bits a sample, which are brought to 8",
            [p for p in whole if p.facts.mode in _SIXTEEN_BITS],
        ),
        ("even", "photos of one even surface, black or white as after a failed conversion: look at them", even),
        (
            "thin",
            f"photos of under {_THIN_PX} px, or {_LONG} times as long as wide: the centre square alone is fed",
            thin,
        ),
    ):
        yield _of_groups(kind, [(photo,) for photo in chosen], len(chosen), sentence, spoils=False)


def _is_thin(facts: PhotoFacts) -> bool:
    short, long = sorted((facts.width_px, facts.height_px))
    return short < _THIN_PX or long >= _LONG * short


def _of_the_folder(folder: Folder) -> Iterator[Finding]:
    skipped = [(str(s.path.relative_to(folder.root)), s.reason) for s in folder.skipped]
    yield Finding(
        kind="skipped",
        spoils=False,
        n_photos=len(skipped),
        sentence="files that are not read",
        photos=tuple(skipped),
    )
    yield Finding(
        kind="spelled-twice",
        spoils=False,
        n_photos=len(folder.spelled_twice),
        sentence="classes that are spelled in two Unicode forms (NFC and NFD), each of which is taken as one",
        photos=tuple((name,) for name in folder.spelled_twice),
    )
    told = unequal(dict(zip(folder.class_names, folder.counts("train"), strict=True)))
    if told is not None:
        yield Finding(kind="unequal", spoils=False, n_photos=sum(folder.counts("train")), sentence=told, photos=())


def unequal(counts: Mapping[str, int]) -> str | None:
    """Return one sentence where the classes differ :data:`UNEQUAL`-fold, else None."""
    least, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    if counts[most] < UNEQUAL * counts[least]:
        return None
    return (
        f"the classes are unequal, {counts[most]:,} training photos of {most!r} and {counts[least]:,} of {least!r}: "
        "train with --balance, and read the accuracy of each class"
    )


def _of_groups(
    kind: str, groups: Sequence[Sequence[_Photo]], count: int, sentence: str, *, spoils: bool = True
) -> Finding:
    names = tuple(tuple(photo.name for photo in group) for group in groups)
    return Finding(kind=kind, spoils=spoils, n_photos=count, sentence=sentence, photos=names)


def _grouped(photos: Sequence[_Photo]) -> list[list[_Photo]]:
    """Return photos of equal pixels together."""
    found: dict[str, list[_Photo]] = defaultdict(list)
    for photo in photos:
        found[photo.facts.digest].append(photo)
    return list(found.values())


def _near(photos: Sequence[_Photo]) -> list[tuple[_Photo, _Photo]]:
    """Return pairs of a test and the training photo most like it that look alike and are not equal."""
    train = [photo for photo in photos if photo.split == "train"]
    known = {photo.facts.digest for photo in train}
    test = [photo for photo in photos if photo.split == "test" and photo.facts.digest not in known]
    if not train or not test:
        return []
    theirs, found = _thumbnails(train), []
    for start in range(0, len(test), _AT_ONCE):
        some = test[start : start + _AT_ONCE]
        alike = _thumbnails(some) @ theirs.T
        best = alike.argmax(axis=1)
        found += [(one, train[i]) for one, i, row in zip(some, best, alike, strict=True) if row[i] >= _ALIKE]
    return found


def _thumbnails(photos: Sequence[_Photo]) -> NDArray[np.float32]:
    """Return each thumbnail less its mean and of length 1, or zeros where it is even: the products are correlations."""
    raw = np.frombuffer(bytes.fromhex("".join(photo.facts.thumbnail for photo in photos)), np.uint8)
    rows = raw.reshape(len(photos), -1).astype(np.float32)
    rows -= rows.mean(axis=1, keepdims=True)
    deviation = rows.std(axis=1, keepdims=True)
    lengths = deviation * np.sqrt(np.float32(rows.shape[1]))
    scaled: NDArray[np.float32] = np.where(deviation < _LEAST_CONTRAST, 0, rows / np.maximum(lengths, 1e-6))
    return scaled
