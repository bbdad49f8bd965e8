"""ARM instructions per call: repeatable, additive, and of the call alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from exporters.bundle.open import open_bundle
from harness.bench.ranking import rank
from harness.records import BenchSet
from harness.runners.android import open_session
from harness.runners.table import RUNNERS
from harness.runtime.build import small_model
from harness.runtime.count import MAX_SPREAD_FRACTION, count, spread
from udacisense.base.records import read_json
from udacisense.cli.main import run
from udacisense.errors import InputError, LoadError

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
        assert row.instructions == counted.get(row.cell.variant_id)
    # A second run of the same record counts nothing again.
    assert run([*line, "--arm-instructions", "--resume", "-o", str(record)]) == 0
    assert read_json(BenchSet, record).instructions == measured.instructions


def test_onnx_files_are_counted_in_the_same_currency(
    onnxruntime_arm64: str, small_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = ("onnx-fp32", "onnx-int8-static", "ort-fp32")
    options = [word for name in wanted for word in ("--variant", name)]
    assert run(["bench", str(small_bundle), *options, "--only-instructions", "--format", "json"]) == 0
    counted = {found["variant_id"]: found for found in json.loads(capsys.readouterr().out)}
    assert set(counted) == set(wanted)
    for found in counted.values():
        assert (found["runtime"], found["library"]) == ("onnxruntime-arm64", "onnxruntime 1.23.2")
        assert found["spread_fraction"] <= MAX_SPREAD_FRACTION
        assert found["instructions_per_call"] > found["macs"] / 16  # sixteen int8 products an instruction, by NEON
    fp32, ort = (counted[name]["instructions_per_call"] for name in ("onnx-fp32", "ort-fp32"))
    assert fp32 > counted["onnx-fp32"]["macs"] / 4
    assert ort == pytest.approx(fp32, rel=0.1)  # the same network, optimised here and there


@pytest.mark.parametrize("name", ["onnx-int8-static", "ort-fp32"])
def test_what_is_counted_answers_as_here(onnxruntime_arm64: str, small_bundle: Path, name: str) -> None:
    bundle = open_bundle(small_bundle)
    variant = next(v for v in bundle.manifest.variants if v.id == name)
    path, images = bundle.path(str(variant.path)), bundle.golden_inputs()[:4]
    # As the file is written: without VNNI, the int8 kernels of x86 saturate where those of ARM do not.
    here = RUNNERS["onnxruntime"].load(path, variant, engine="disabled", threads=1).run(images)
    with open_session(onnxruntime_arm64, path) as session:
        there = session.run(images)
        assert session.actual["abi"] == "aarch64"
    # A value in the middle of two steps of int8 may be rounded either way.
    np.testing.assert_allclose(there, here, rtol=1e-4, atol=1e-4 if "fp32" in name else 0.05 * np.abs(here).max())


def test_an_onnx_file_that_is_none_would_not_load(onnxruntime_arm64: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises(LoadError, match=r"onnxruntime-arm64: .*ORT_INVALID_PROTOBUF"):
        count(broken, np.zeros((1, 3, 32, 32), np.float32))


def test_a_pte_is_counted_and_answers_as_its_source(executorch_arm64: str, tmp_path: Path) -> None:
    path, images, expected = small_model(tmp_path, "executorch")
    with open_session(executorch_arm64, path) as session:
        np.testing.assert_allclose(session.run(images), expected, atol=1e-5)
    counted = count(path, images, batch_size=len(images))
    assert counted.library == "executorch 1.5.1"
    assert counted.instructions_per_call > 2 * 16 * 16 * 8 * 27 / 4  # four products an instruction, by NEON
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(LoadError, match=r"executorch-arm64: it would not load"):
        count(path, images)


def test_spread_is_relative_to_the_median() -> None:
    assert spread([99.0, 100.0, 102.0]) == pytest.approx(0.03)


def test_without_the_runtime_counting_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UDACISENSE_CACHE", str(tmp_path))
    wanted = {
        "ptl": "android-arm64",
        "onnx": "onnxruntime-arm64",
        "ort": "onnxruntime-arm64",
        "pte": "executorch-arm64",
    }
    for suffix, runtime in wanted.items():
        with pytest.raises(InputError, match=f"runtime add {runtime}"):
            count(tmp_path / f"m.{suffix}", np.zeros((1, 3, 32, 32), np.float32))


def test_a_format_whose_runtime_is_missing_is_said_and_not_counted(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UDACISENSE_CACHE", str(tmp_path))
    assert run(["bench", str(small_bundle), "--only-instructions"]) == 2
    told = capsys.readouterr().err
    assert ".ptl is not counted: android-arm64 is not set up" in told
    assert ".onnx is not counted: onnxruntime-arm64 is not set up" in told
    for suffix in (".pt", ".mlpackage"):
        assert f"{suffix} is not counted: there is a counter for .ptl, .tflite, .onnx, .ort, .pte alone" in told
