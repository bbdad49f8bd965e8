"""What is fed beyond the test images: photos of other things, and the test images as phones take them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.inputs import InputSet, PixelArray
from udacisense.errors import InputError

BEYOND: Literal["beyond"] = "beyond"  # name of the setting that answers them
_MOST_UNKNOWN = 1000


@dataclass(frozen=True)
class Beyond:
    """Images beside the test images."""

    pixels: PixelArray  # uint8 (m, 3, H, W): unknown ones, then shifted ones
    n_unknown: int
    shifted: NDArray[np.intp]  # which test images were shifted; empty: none


def read_unknown(folder: Path, size_px: int) -> PixelArray:
    """Read photos of other things, at most 1,000, evenly spread: every image below a folder.

    Returns:
        uint8 (n, 3, size_px, size_px).

    Raises:
        InputError: it is no folder, holds no image, or one cannot be read.
    """
    from udacisense.base.photos import IMAGE_SUFFIXES
    from udacisense.data.images import read_squares, spread_rows

    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; give --unknown a folder of photos of other things.")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if not files:
        raise InputError(f"{folder} holds no images; give --unknown a folder of photos of other things.")
    chosen = [files[i] for i in spread_rows(len(files), _MOST_UNKNOWN)]
    found: PixelArray = read_squares(chosen, size_px, "Reading photos of other things").numpy()
    return found


def make_beyond(inputs: InputSet, *, unknown: PixelArray | None, is_shifted: bool) -> Beyond | None:
    """Return what is fed beside the inputs; None for nothing.

    Raises:
        InputError: shifts are asked for, and the inputs' classes are not known.
    """
    import torch

    from udacisense.data.images import spread_rows
    from udacisense.measure.shifts import MOST_IMAGES, all_shifts

    if is_shifted and inputs.labels is None:
        raise InputError("--shift needs labelled photos; give --data with the images that the model was made for.")
    if unknown is None and not is_shifted:
        return None
    rows = spread_rows(len(inputs), MOST_IMAGES) if is_shifted else np.zeros(0, dtype=np.intp)
    blocks = [] if unknown is None else [unknown]
    if is_shifted:
        blocks.append(all_shifts(torch.from_numpy(inputs.pixels[rows])).numpy())
    return Beyond(np.concatenate(blocks), 0 if unknown is None else len(unknown), rows)
