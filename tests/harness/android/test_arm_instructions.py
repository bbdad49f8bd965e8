"""ARM instructions per call: repeatable, additive, and of the call alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from harness.android.instructions import MAX_SPREAD_FRACTION, count, spread
from harness.ranking import rank
from harness.types import BenchSet
from udacisense.cli import run
from udacisense.errors import InputError
from udacisense.types import read_json

pytestmark = pytest.mark.android

Saved = tuple[Path, NDArray[np.float32], NDArray[np.float32]]


class Repeated(nn.Module):
    """The same convolution once or several times; nothing else that costs."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*[nn.Conv2d(3, 3, 3, padding=1) for _ in range(times)])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images).mean((2, 3))


def test_work_adds_up_and_start_up_is_no_part_of_it(
    arm64: str, save_ptl: Callable[[nn.Module, torch.Tensor], Saved]
) -> None:
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    counts = {}
    for times in (1, 2, 4):
        path, inputs, _ = save_ptl(Repeated(times), images)
        counts[times] = count(path, inputs)
        assert counts[times].spread_fraction <= MAX_SPREAD_FRACTION
    one, two, four = (counts[times].instructions_per_call for times in (1, 2, 4))
    assert one < 5e6  # starting the runtime takes some thousand millions
    layer = two - one
    assert layer > 3 * 3 * 9 * 64 * 64 / 4  # four multiply-adds an instruction is all that NEON does in float32
    assert four - two == pytest.approx(2 * layer, rel=0.03)


def test_every_ptl_of_a_bundle_is_counted_and_stands_beside_its_times(
    arm64: str, small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [
        "bench",
        str(small_bundle),
        "--quick",
        "--threads",
        "1",
        "--variant",
        "ptl-fp32",
        "--variant",
        "ptl-fp32-xnnpack",
    ]
    record = tmp_path / "bench.json"
    assert run([*line, "--arm-instructions", "-o", str(record)]) == 0
    told = capsys.readouterr().out
    assert "ARM instructions" in told
    assert "per MAC" in told
    measured = read_json(BenchSet, record)
    counted = {found.variant_id: found for found in measured.instructions}
    assert counted.keys() == {"ptl-fp32", "ptl-fp32-xnnpack"}
    for found in counted.values():
        assert found.threads == 1
        assert found.spread_fraction is not None
        assert found.spread_fraction <= MAX_SPREAD_FRACTION
        assert found.instructions_per_call is not None
        assert found.instructions_per_call > found.macs / 4
    for row in rank(measured):  # the lite interpreter's and the Android library's rows of the file show one count
        assert row.instructions == counted.get(row.cell.spec.variant_id)
    # A second run of the same record counts nothing again.
    assert run([*line, "--arm-instructions", "--resume", "-o", str(record)]) == 0
    assert read_json(BenchSet, record).instructions == measured.instructions


def test_spread_is_relative_to_the_median() -> None:
    assert spread([99.0, 100.0, 102.0]) == pytest.approx(0.03)


def test_without_the_runtime_counting_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UDACISENSE_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="runtime add android-arm64"):
        count(tmp_path / "m.ptl", np.zeros((1, 3, 32, 32), np.float32))
