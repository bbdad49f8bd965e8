"""Many photos at once: decoded by several processes, and kept so that the next run starts in seconds."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from udacisense.base.child import READ_S, allowed_cores, child_pool, run_child
from udacisense.base.decoder import DIGEST_BYTES, DIGESTS, FACTS, FILES, PIXELS, PROGRESS, PhotoFacts
from udacisense.base.display import megabytes, now_utc
from udacisense.base.files import atomic_path, cache_folder, locked, remove, sha256_file
from udacisense.base.progress import progress
from udacisense.base.records import read_json, record, write_record
from udacisense.errors import BusyError, InputError, cause

log = logging.getLogger("udacisense")

_CHECKED_BYTES = 256 << 20  # of a cache's squares that are held against their digests when it is opened: half a second
_POLL_S = 0.5


@record
class PhotoCache:
    """``cache.json``: what a folder of decoded photos was made of."""

    schema_version: Literal[1]
    source: str  # the folder that holds all of the photos
    size_px: int
    n_images: int
    files_sha256: str  # of names, sizes and times of the files
    digests_sha256: str  # of the SHA-256 of each square
    created_utc: str

    FILE_NAME: ClassVar[str] = "cache.json"


def caches() -> Path:
    """Return the folder of all caches of photos."""
    return cache_folder() / "photos"


def decode(
    files: Sequence[Path], folder: Path, task: Literal["squares", "facts"], *, size_px: int, description: str
) -> None:
    """Let a process for each core decode its share of the photos; see :mod:`udacisense.base.decoder`.

    Args:
        files: the photos.
        folder: where their list, and what is made of them, lies.
        task: what is made.
        size_px: edge of the squares.
        description: of the progress bar.

    Raises:
        InputError: a photo cannot be read (it is named), or a process ended.
    """
    names = {"size_px": size_px, "files": [str(path.absolute()) for path in files]}
    (folder / FILES).write_text(json.dumps(names), encoding="utf-8")
    count = min(len(files), allowed_cores())
    with progress(description, len(files)) as advance, child_pool(count) as pool:

        def start(share: int) -> str | None:
            place = folder / f"process-{share}"
            place.mkdir()
            return run_child(
                "udacisense.base.decoder",
                place,
                *(task, str(share), str(count)),
                timeout_s=READ_S,
                progressed=_watch(place / PROGRESS, advance),
            )

        for failure in pool.map(start, range(count)):
            if failure is not None:
                raise InputError(failure)


def _watch(done: Path, advance: Callable[[float], None]) -> Callable[[], bool]:
    seen = 0

    def look() -> bool:
        nonlocal seen
        now = done.stat().st_size if done.exists() else 0
        advance(now - seen)
        is_new, seen = now > seen, now
        return is_new

    return look


def photo_facts(files: Sequence[Path]) -> list[PhotoFacts]:
    """Read every photo whole and return what each is, in their order."""
    with tempfile.TemporaryDirectory(prefix="udacisense-check-") as name:
        folder = Path(name)
        decode(files, folder, "facts", size_px=0, description="Reading photos")
        lines = [line for path in folder.glob(f"*/{FACTS}") for line in path.read_text(encoding="utf-8").splitlines()]
    return sorted((PhotoFacts(**json.loads(line)) for line in lines), key=lambda facts: facts.index)


def cached_squares(files: Sequence[Path], size_px: int, description: str) -> tuple[Tensor, Tensor]:
    """Return photos as :func:`udacisense.base.photos.fit_square` gives them, mapped from the cache; decoded once.

    The cache holds for the same files, by their names, sizes and times: when they were written, and when anything of
    them was changed, which no copying of times hides. It appears whole or not at all; a second run waits for the first.

    Returns:
        uint8 (n, 3, size_px, size_px), which lies on disk and is read as it is used; and uint8 (n, 32), the SHA-256
        of each.

    Raises:
        InputError: the disk has too little room, or as :func:`decode`.
    """
    root = _root(files)
    place = caches() / f"{root.parent.name}-{root.name}-{size_px}px-{_sha256(str(root))[:8]}"
    states = [(path, path.stat()) for path in files]
    key = _sha256(
        "\n".join(
            f"{path.absolute()}\0{state.st_size}\0{state.st_mtime_ns}\0{state.st_ctime_ns}" for path, state in states
        )
    )
    is_made = False
    while (found := _opened(place, key, len(files), size_px)) is None:
        if is_made:
            raise InputError(f"What was decoded into {place} cannot be read back; look after the disk, or make room.")
        try:
            with locked(place):
                if _opened(place, key, len(files), size_px) is None:
                    _make(place, files, key, size_px, description)
                    is_made = True
        except BusyError:
            time.sleep(_POLL_S)
        except OSError as exc:
            raise InputError(
                f"The decoded photos cannot be kept in {place.parent}: {(exc.strerror or cause(exc)).lower()}; set "
                "UDACISENSE_CACHE to a folder that you may write to and that has room."
            ) from exc
    return found


def _root(files: Sequence[Path]) -> Path:
    return Path(os.path.commonpath([path.absolute().parent for path in files]))


def _make(place: Path, files: Sequence[Path], key: str, size_px: int, description: str) -> None:
    root, n, square_bytes = _root(files), len(files), 3 * size_px * size_px
    needed, free = n * (square_bytes + DIGEST_BYTES), shutil.disk_usage(place.parent).free
    if free < needed:
        raise InputError(
            f"{n:,} photos of {root} at {size_px} px take {megabytes(needed)} below {place.parent}, where "
            f"{megabytes(free)} are free; make room, feed smaller images, or set UDACISENSE_CACHE to another folder."
        )
    log.info("%s photos of %s are decoded once, into %s below %s", f"{n:,}", root, megabytes(needed), place.parent)
    if not place.is_dir():
        remove(place)  # a file there would be in the folder's way
    with atomic_path(place) as partial:
        partial.mkdir()
        for name, width in ((PIXELS, square_bytes), (DIGESTS, DIGEST_BYTES)):
            with (partial / name).open("wb") as stream:
                _reserve(stream, n * width)
        decode(files, partial, "squares", size_px=size_px, description=description)
        for left in (*partial.glob("process-*"), partial / FILES):
            remove(left)
        made = PhotoCache(
            schema_version=1,
            source=str(root),
            size_px=size_px,
            n_images=n,
            files_sha256=key,
            digests_sha256=sha256_file(partial / DIGESTS),
            created_utc=now_utc(),
        )
        write_record(partial / PhotoCache.FILE_NAME, made)


def _reserve(stream: IO[bytes], count: int) -> None:
    """Give a file its size, and the disk that it takes: a mapped file for which none is left ends its process."""
    stream.truncate(count)
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(stream.fileno(), 0, count)


def _opened(place: Path, key: str, n: int, size_px: int) -> tuple[Tensor, Tensor] | None:
    """Return what a whole cache of these files holds; None where there is none."""
    if not (place / PhotoCache.FILE_NAME).is_file():
        return None
    try:
        kept = read_json(PhotoCache, place / PhotoCache.FILE_NAME)
        is_ours = (kept.files_sha256, kept.n_images, kept.size_px) == (key, n, size_px)
        if not is_ours or sha256_file(place / DIGESTS) != kept.digests_sha256:
            return None
        digests = np.fromfile(place / DIGESTS, np.uint8).reshape(n, DIGEST_BYTES)
        pixels = np.memmap(place / PIXELS, np.uint8, "r", shape=(n, 3, size_px, size_px))
    except (InputError, OSError, ValueError):
        return None
    for index in range(0, n, -(-pixels.nbytes // _CHECKED_BYTES)):  # every one of a small cache
        if hashlib.sha256(np.ascontiguousarray(pixels[index]).data).digest() != digests[index].tobytes():
            log.warning("the decoded photos in %s are damaged, and are made again", place)
            return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # nobody writes to them
        return torch.from_numpy(pixels), torch.from_numpy(digests)


def list_caches() -> list[tuple[Path, PhotoCache | None]]:
    """Return the folder of each cache, and what it was made of; None: it cannot be read."""
    found: list[tuple[Path, PhotoCache | None]] = []
    for place in sorted(path for path in caches().glob("*") if path.is_dir() and not path.name.startswith(".")):
        try:
            found.append((place, read_json(PhotoCache, place / PhotoCache.FILE_NAME)))
        except InputError:
            found.append((place, None))
    return found


def remove_caches(name: str) -> list[Path]:
    """Remove a cache by its name, all of a folder's photos by its path, or ``all``; return what was removed."""
    wanted = Path(name).absolute()
    removed = []
    for place, kept in list_caches():
        is_inside = kept is not None and Path(kept.source).is_relative_to(wanted)
        if name in ("all", place.name) or is_inside:
            with locked(place):
                remove(place)
            removed.append(place)
    return removed


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
