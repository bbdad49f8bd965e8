"""A process that decodes its share of many photos; :func:`udacisense.data.decoding.decode` starts several."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from udacisense.base.photos import (
    IMAGE_FORMATS,
    orientation,
    quiet_pillow,
    read_square,
    to_rgb,
    upright,
    why_unreadable,
)

FILES, PIXELS, DIGESTS, FACTS, PROGRESS = "files.json", "pixels.u8", "digests.u8", "facts.jsonl", "decoded"
DIGEST_BYTES = 32
THUMBNAIL_PX = 16


@dataclass(frozen=True)
class PhotoFacts:
    """What one photo is, found by reading it whole."""

    index: int  # of its file in the list
    error: str | None  # why it cannot be read, and then the rest is empty
    form: str = ""  # JPEG, PNG, ...
    mode: str = ""  # Pillow's, as stored
    width_px: int = 0  # as stored
    height_px: int = 0
    orientation: int = 1  # of EXIF
    digest: str = ""  # hex SHA-256 of the upright photo's size and RGB
    thumbnail: str = ""  # hex, 16 × 16 grey


def main(folder: Path, task: str, share: str, of: str) -> None:
    """Decode every ``of``-th photo of the list that lies beside ``folder``, from number ``share`` on.

    Args:
        folder: of this process; a byte of ``decoded`` in it stands for a photo.
        task: ``squares``, into the arrays beside the folder, or ``facts``, into a file of lines in it.
        share: from 0.
        of: number of processes.
    """
    given = json.loads((folder.parent / FILES).read_text(encoding="utf-8"))
    files = [Path(name) for name in given["files"]]
    mine = range(int(share), len(files), int(of))
    work = {"squares": _squares, "facts": _facts}[task]
    with (folder / PROGRESS).open("wb", buffering=0) as done, quiet_pillow():
        for _ in work(folder, files, mine, given["size_px"]):
            done.write(b".")


def _squares(folder: Path, files: list[Path], mine: range, size_px: int) -> Iterator[None]:
    shape = (len(files), 3, size_px, size_px)
    pixels = np.memmap(folder.parent / PIXELS, np.uint8, "r+", shape=shape)
    digests = np.memmap(folder.parent / DIGESTS, np.uint8, "r+", shape=(len(files), DIGEST_BYTES))
    for index in mine:
        pixels[index] = read_square(files[index], size_px).transpose(2, 0, 1)
        digests[index] = np.frombuffer(hashlib.sha256(pixels[index].data).digest(), np.uint8)
        yield


def _facts(folder: Path, files: list[Path], mine: range, _: int) -> Iterator[None]:
    with (folder / FACTS).open("w", encoding="utf-8") as lines:
        for index in mine:
            lines.write(json.dumps(asdict(facts_of(files[index], index))) + "\n")
            yield


def facts_of(path: Path, index: int) -> PhotoFacts:
    """Read one photo whole and return what it is."""
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as photo:
            form, mode, size = photo.format or "", photo.mode, photo.size
            rgb = to_rgb(upright(photo))
            turn = orientation(photo)
    except Exception as exc:  # as in read_square
        return PhotoFacts(index=index, error=why_unreadable(exc, path))
    digest = hashlib.sha256(f"{rgb.size}".encode() + rgb.tobytes()).hexdigest()
    thumbnail = rgb.convert("L").resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX).tobytes().hex()
    return PhotoFacts(
        index=index,
        error=None,
        form=form,
        mode=mode,
        width_px=size[0],
        height_px=size[1],
        orientation=turn,
        digest=digest,
        thumbnail=thumbnail,
    )
