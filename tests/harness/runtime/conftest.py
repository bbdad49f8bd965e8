"""Android runtimes for the tests: set up once, kept in the tests' own cache, skipped where they cannot be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from numpy.typing import NDArray
from tests_cache import CACHE
from torch import nn

from harness.runtime import setup
from harness.runtime.catalogue import missing_tools, wrong_host
from harness.runtime.fetch import UnreachableError


def _ready(name: str) -> str:
    if setup.unusable(name) is None:
        return name
    if (reason := wrong_host()) is not None:
        pytest.skip(reason)
    if missing := missing_tools(name):
        pytest.skip(f"{name} needs " + "; ".join(f"{tool} ({command})" for tool, command in missing))
    CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(CACHE / "runtimes.lock"):  # one process sets it up, the others wait
        if setup.unusable(name) is not None:
            try:
                setup.add_runtime(name)
            except UnreachableError as exc:
                pytest.skip(f"{name} could not be set up: {exc}")
    return name


@pytest.fixture(autouse=True)
def in_tests_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Android tests keep their runtimes between runs."""
    monkeypatch.setenv("UDACISENSE_CACHE", str(CACHE))


@pytest.fixture
def x86_64(in_tests_cache: None) -> str:
    return _ready("android-x86_64")


@pytest.fixture
def arm64(in_tests_cache: None) -> str:
    return _ready("android-arm64")


@pytest.fixture
def onnxruntime_arm64(in_tests_cache: None) -> str:
    return _ready("onnxruntime-arm64")


@pytest.fixture
def executorch_arm64(in_tests_cache: None) -> str:
    return _ready("executorch-arm64")


class SmallNet(nn.Module):
    """Convolutions of every kind that the product's models have, but a 1×1 one on a 1×1 map."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.Hardswish(),
            nn.Conv2d(16, 16, 5, padding=2, groups=16),
            nn.ReLU(),
            nn.Conv2d(16, 24, 1),
        )
        self.classifier = nn.Linear(24, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.features(nn.functional.interpolate(images, size=(48, 48), mode="bilinear", align_corners=False))
        return self.classifier(maps.mean((2, 3)))


Saved = tuple[Path, NDArray[np.float32], NDArray[np.float32]]


@pytest.fixture
def save_ptl(tmp_path: Path) -> Callable[[nn.Module, torch.Tensor], Saved]:
    """Write a model as a plain ``.ptl``; return its path, the inputs and what the model answers to them here."""

    def save(model: nn.Module, images: torch.Tensor) -> Saved:
        path = tmp_path / f"{type(model).__name__}.ptl"
        torch.jit.freeze(torch.jit.trace(model.eval(), images[:1]))._save_for_lite_interpreter(str(path))
        with torch.inference_mode():
            return path, images.numpy(), model(images).numpy()

    return save


@pytest.fixture
def small_ptl(save_ptl: Callable[[nn.Module, torch.Tensor], Saved]) -> Saved:
    generator = torch.Generator().manual_seed(7)
    torch.manual_seed(7)
    return save_ptl(SmallNet(), torch.randn(6, 3, 32, 32, generator=generator))
