"""A small bundle that was really trained and really exported, for every test that needs files to run."""

from __future__ import annotations

from pathlib import Path

import pytest
import small_bundle as small
import torch

from exporters.formats.contract import ExportOptions
from udacisense.data.images import DataSet


@pytest.fixture(scope="session")
def drawn_dataset(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return small.drawn_shapes(tmp_path_factory.mktemp("drawn") / "shapes")


@pytest.fixture(scope="session")
def trained_model(drawn_dataset: DataSet) -> torch.nn.Module:
    return small.train(drawn_dataset)


@pytest.fixture(scope="session")
def small_bundle(
    drawn_dataset: DataSet, trained_model: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Every format, the precisions that differ in kind; ExecuTorch is skipped where it is not installed."""
    options = ExportOptions(
        precisions=("fp32", "fp16", "int8-dynamic", "int8-static", "palette6"), engines=("qnnpack",), calibration=64
    )
    return small.export(trained_model, drawn_dataset, tmp_path_factory.mktemp("bundle") / "small", options)
