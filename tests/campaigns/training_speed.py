"""How many images a second training takes, against a plain PyTorch loop of the same network, by turns in one process.

::

    python tests/campaigns/training_speed.py --data DATA --model tiny --compile on
    python tests/campaigns/training_speed.py --data DATA --model tiny --device cuda --precision bf16 --batch-size 512

The plain loop is what a user would write: a ``DataLoader`` over torchvision's transforms, ``AdamW``, ``loss.item()``.
Both train on labels, with crops and flips. Prints a line of the table in ``docs/explanation/speed.md``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from udacisense.data.batches import Batches
from udacisense.data.images import MEAN, STD, Images, load_dataset
from udacisense.models.build import build_model, preset
from udacisense.training import training_split
from udacisense.training.compute import Compute, launch, repeatable
from udacisense.training.loop import TrainingRun
from udacisense.training.types import Job, TrainConfig


class Photos(Dataset[tuple[Tensor, int]]):
    """Images one by one, as torchvision's data sets give them."""

    def __init__(self, images: Images) -> None:
        from torchvision import transforms

        self.photos = [transforms.functional.to_pil_image(pixels) for pixels in images.pixels]
        self.labels = images.labels.tolist()
        edge = images.pixels.shape[2]
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(edge, padding=edge // 8, padding_mode="reflect"),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.photos[index]), self.labels[index]


def plain_epochs(model: nn.Module, images: Images, *, device: str, batch_size: int, workers: int) -> Iterator[float]:
    """Train epoch by epoch; yield the seconds of each."""
    loader = DataLoader(
        Photos(images),
        batch_size=batch_size,
        shuffle=True,
        num_workers=workers,
        pin_memory=device == "cuda",
        persistent_workers=workers > 0,
    )
    model = model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    criterion = nn.CrossEntropyLoss()
    while True:
        start, running = time.perf_counter(), 0.0
        for inputs, labels in loader:
            optimizer.zero_grad()
            loss = criterion(model(inputs.to(device)), labels.to(device))
            loss.backward()
            optimizer.step()
            running += loss.item()
        yield time.perf_counter() - start


def engine_epochs(model: nn.Module, images: Images, *, compute: Compute, batch_size: int) -> Iterator[float]:
    """Train epoch by epoch; yield the seconds of each."""
    batches = Batches(images, batch_size=batch_size, shuffle=True, augment=True)
    config = TrainConfig(epochs=1000, compute=compute, channels_last=True)
    fabric = launch(compute)
    run = TrainingRun(model, Job(batches=batches, config=config), fabric)
    run.net.train()
    for epoch in range(config.epochs):
        with repeatable(epoch, fabric.device, precision=compute.precision):  # the plain loop runs without
            seconds = run._epoch(epoch, lambda *_, **__: None).duration_s
        yield seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="32")
    parser.add_argument("--compile", default="off")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--images", type=int, default=1024, help="of an epoch; repeated where there are fewer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=0, help="of the plain loop's DataLoader")
    given = parser.parse_args()
    dataset = load_dataset(given.data)
    images = training_split(dataset)[0]
    images = images.take(torch.arange(given.images) % len(images))
    spec = preset(given.model, num_classes=len(dataset.class_names), size_px=32)
    compute = Compute(device=given.device, precision=given.precision, compile=given.compile)
    plain = plain_epochs(
        build_model(spec), images, device=given.device, batch_size=given.batch_size, workers=given.workers
    )
    engine = engine_epochs(build_model(spec), images, compute=compute, batch_size=given.batch_size)
    rates: list[tuple[float, float]] = []
    for turn in range(given.rounds + 1):  # the first round warms up
        pair = [given.images / next(epochs) for epochs in ((plain, engine) if turn % 2 else (engine, plain))]
        rates.append((pair[0], pair[1]) if turn % 2 else (pair[1], pair[0]))
        print(f"# round {turn}: plain {rates[-1][0]:,.0f}, engine {rates[-1][1]:,.0f} images/s", flush=True)  # noqa: T201
    ours, theirs = (statistics.median(rate[i] for rate in rates[1:]) for i in (1, 0))
    ratio = statistics.median(engine_rate / plain_rate for plain_rate, engine_rate in rates[1:])
    where = torch.cuda.get_device_name() if given.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    settings = f"{given.precision}, batches of {given.batch_size}, compile {given.compile}"
    print(f"| {given.model} | {where} of {os.cpu_count()} | {settings} | {theirs:,.0f} | {ours:,.0f} | {ratio:.2f} |")  # noqa: T201


if __name__ == "__main__":
    main()
