"""How fast photos are read: this product's cache against torchvision's ImageFolder with a DataLoader.

    python tests/campaigns/photo_speed.py [--photos 2000] [--size 224] [--rounds 3]

Both decode the same drawn JPEGs of 640 × 480, crop the centre and resize it, with a worker for each core, and hand out
uint8 batches of 64. The first epoch of this product decodes into an empty cache. The rounds take turns.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from udacisense.data import decoding, images
from udacisense.data.images import load_dataset

BATCH = 64


def draw(root: Path, count: int) -> None:
    """Draw photos whose JPEGs are as large as a phone's at this size: smooth shapes and some noise."""
    generator = np.random.default_rng(0)
    for split, n in (("train", count), ("test", 4)):
        for label in ("a", "b"):
            folder = root / split / label
            folder.mkdir(parents=True)
            for i in range(n // 2):
                coarse = generator.integers(0, 256, (15, 20, 3), dtype=np.uint8)
                smooth = np.asarray(Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC), np.int16)
                noisy = np.clip(smooth + generator.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)
                Image.fromarray(noisy).save(folder / f"{i}.jpg", quality=85)


def ours(root: Path, size_px: int) -> int:
    """Read an epoch of the training photos; return their number."""
    data = load_dataset(str(root), size_px=size_px).train
    order = torch.randperm(len(data))
    return sum(len(data.at(chosen)) for chosen in order.split(BATCH))


def theirs(root: Path, size_px: int, workers: int) -> int:
    """The same by torchvision."""
    steps = [transforms.Resize(size_px), transforms.CenterCrop(size_px), transforms.PILToTensor()]
    folder = ImageFolder(str(root / "train"), transforms.Compose(steps))
    loader = DataLoader(folder, batch_size=BATCH, shuffle=True, num_workers=workers)
    return sum(len(batch) for batch, _ in loader)


def timed(call: Callable[[], int]) -> float:
    """Return images a second."""
    start = time.perf_counter()
    count = call()
    return count / (time.perf_counter() - start)


def main() -> None:
    """Measure, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=2000)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    workers = len(os.sched_getaffinity(0))
    found: dict[str, list[float]] = {"torchvision": [], "first epoch": [], "second epoch": []}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "photos"
        os.environ["UDACISENSE_CACHE"] = f"{name}/cache"
        images.MOST_IN_MEMORY_BYTES = 0
        draw(root, given.photos)
        for _ in range(given.rounds):
            shutil.rmtree(decoding.caches(), ignore_errors=True)
            found["torchvision"].append(timed(lambda: theirs(root, given.size, workers)))
            found["first epoch"].append(timed(lambda: ours(root, given.size)))
            found["second epoch"].append(timed(lambda: ours(root, given.size)))
    sys.stdout.write(
        f"{given.photos} photos at {given.size} px, {workers} workers, {platform.processor() or platform.machine()}\n"
    )
    for what, rates in found.items():
        sys.stdout.write(
            f"{what}: {statistics.median(rates):.0f} images a second ({min(rates):.0f} to {max(rates):.0f})\n"
        )


if __name__ == "__main__":
    main()
