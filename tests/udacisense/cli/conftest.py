"""Fixtures of the command line's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from exporters.export import export_bundle
from exporters.formats.contract import ExportOptions
from exporters.source import make_source
from udacisense.data.images import load_dataset, make_signature
from udacisense.data.shapes import draw_dataset
from udacisense.models.build import build_model, preset

Stage = Callable[..., Path]


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """Export an untrained tiny network in float32, as a bundle named "staged" in a new folder."""

    def export(*formats: str) -> Path:
        folder = tmp_path_factory.mktemp("staged")
        draw_dataset(folder / "shapes", train_per_class=4, test_per_class=4, seed=0)
        data = load_dataset(str(folder / "shapes"))
        spec = preset("tiny", resolution_px=32)
        torch.manual_seed(0)
        source = make_source(
            name="staged",
            model=build_model(spec).eval(),
            spec=spec,
            signature=make_signature(data.class_names),
            dataset=data,
        )
        export_bundle(source, folder / "bundle", ExportOptions(formats=formats, precisions=("fp32",)))
        return folder / "bundle"

    return export
