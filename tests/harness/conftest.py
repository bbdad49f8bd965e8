"""A small bundle that was really trained and really exported, for every test that needs files to run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import small_bundle as small
import torch

from exporters.formats.contract import ExportOptions
from udacisense.data.images import DataSet


@pytest.fixture(scope="session")
def drawn_dataset(once: Callable[..., Path]) -> DataSet:
    return small.drawn(once("drawn", small.draw))


@pytest.fixture(scope="session")
def trained_model(drawn_dataset: DataSet, once: Callable[..., Path]) -> torch.nn.Module:
    return small.saved(once("trained", lambda folder: small.save(small.train(drawn_dataset), folder)))


@pytest.fixture(scope="session")
def small_bundle(drawn_dataset: DataSet, trained_model: torch.nn.Module, once: Callable[..., Path]) -> Path:
    """Every format, the precisions that differ in kind; ExecuTorch is skipped where it is not installed."""
    options = ExportOptions(
        precisions=("fp32", "fp16", "int8-dynamic", "int8-static", "palette6"), engines=("qnnpack",), calibration=64
    )
    made = once("small", lambda folder: small.export(trained_model, drawn_dataset, folder / "small", options))
    return made / "small"
