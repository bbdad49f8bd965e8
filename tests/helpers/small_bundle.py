"""A small classifier that is really trained, on shapes that the product draws, and really exported."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from exporters.export import export_bundle
from exporters.formats.contract import ExportOptions
from exporters.source import make_source
from udacisense.data.batches import Batches
from udacisense.data.images import DataSet, load_dataset, make_signature
from udacisense.data.shapes import draw_dataset
from udacisense.models.build import build_model, preset

SPEC = preset("tiny", resolution_px=48)


def draw(folder: Path) -> DataSet:
    """Draw the shapes below ``folder``."""
    draw_dataset(folder / "shapes", train_per_class=40, test_per_class=20, seed=1)
    return drawn(folder)


def drawn(folder: Path) -> DataSet:
    """Return the shapes that were drawn below ``folder``."""
    return load_dataset(str(folder / "shapes"))


def train(dataset: DataSet) -> torch.nn.Module:
    torch.manual_seed(0)
    model = build_model(SPEC)
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    batches = Batches(dataset.train, batch_size=50, shuffle=True)
    model.train()
    for epoch in range(20):
        batches.set_epoch(epoch)
        for images, labels in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
    return model.eval()


def save(model: torch.nn.Module, folder: Path) -> None:
    """Write the weights into ``folder``."""
    save_file(model.state_dict(), folder / "model.safetensors")


def saved(folder: Path) -> torch.nn.Module:
    """Return the model whose weights were written into ``folder``."""
    model = build_model(SPEC)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval()


def export(model: torch.nn.Module, dataset: DataSet, folder: Path, options: ExportOptions) -> Path:
    source = make_source(
        name="small", model=model, spec=SPEC, signature=make_signature(dataset.class_names), dataset=dataset
    )
    export_bundle(source, folder, options)
    return folder


def make_small_bundle(folder: Path, options: ExportOptions) -> Path:
    """Draw, train and export below ``folder``; return the bundle."""
    dataset = draw(folder)
    return export(train(dataset), dataset, folder / "bundle", options)
