"""One cell, one process: whatever happens in it, the parent gets a result."""

from __future__ import annotations

import dataclasses
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import harness.cell.run
from exporters.bundle.manifest import Loadable, plain
from harness.cell.run import Cell, Job, Setting, answering_job, run_cell
from udacisense.base.child import StoppedError, child_pool, run_child
from udacisense.base.records import Outcome


class MeanByChannel(nn.Module):
    """A classifier of three classes whose answers are known by hand."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))


class Endless(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        total = images.mean(dim=(2, 3))
        while bool(torch.isfinite(total).all()):
            total = total * 1.0
        return total


class WrongShape(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(1, 2, 3))


class Doubles(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3)).double()


class Raises(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.reshape(-1, 7)


def saved(module: nn.Module, folder: Path) -> Path:
    path = folder / "model.ptl"
    torch.jit.script(module.eval())._save_for_lite_interpreter(str(path))
    return path


def lite_variant(*, batch: int | None = None) -> Loadable:
    return dataclasses.replace(plain("ptl-fp32", "ptl"), batch=batch)


def job_for(
    path: Path, folder: Path, *, count: int = 5, batch_size: int = 2, timeout_s: float = 60.0, batch: int | None = None
) -> Job:
    inputs = np.random.default_rng(0).standard_normal((count, 3, 4, 4)).astype(np.float32)
    np.save(folder / "inputs.npy", inputs)
    asked = {"engine": None, "threads": 1, "batch_size": batch_size, "timeout_s": timeout_s}
    return answering_job(lite_variant(batch=batch), "lite", path, folder / "inputs.npy", **asked)


def expected(folder: Path) -> np.ndarray:
    return np.load(folder / "inputs.npy", allow_pickle=False).mean(axis=(2, 3))


def test_the_answers_come_back_in_order(tmp_path: Path) -> None:
    cell = run_cell(job_for(saved(MeanByChannel(), tmp_path), tmp_path))
    assert cell.result.outcome is Outcome.PASSED, cell.result.reason
    assert cell.outputs is not None
    np.testing.assert_allclose(cell.outputs, expected(tmp_path), rtol=1e-5, atol=1e-6)
    assert cell.result.actual == {"engine": None, "threads": 1}


def test_a_fixed_batch_is_filled_up(tmp_path: Path) -> None:
    cell = run_cell(job_for(saved(MeanByChannel(), tmp_path), tmp_path, count=5, batch_size=4, batch=4))
    assert cell.outputs is not None, cell.result.reason
    np.testing.assert_allclose(cell.outputs, expected(tmp_path), rtol=1e-5, atol=1e-6)


def test_other_settings_run_in_the_same_process(tmp_path: Path) -> None:
    job = job_for(saved(MeanByChannel(), tmp_path), tmp_path)
    other = Setting(name="other", engine=None, threads=2, batch_size=5, inputs_path=job.inputs_path)
    lost = dataclasses.replace(other, name="lost", engine="abacus")
    cell = run_cell(dataclasses.replace(job, others=(other, lost)))
    assert isinstance(cell.others["other"], np.ndarray)
    np.testing.assert_allclose(cell.others["other"], expected(tmp_path), rtol=1e-5, atol=1e-6)
    assert "no quantised engine 'abacus'" in str(cell.others["lost"])
    assert cell.result.outcome is Outcome.PASSED


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (WrongShape(), r"gave float32 \(2,\) for 2 inputs; expected is float32 \(2, C\)"),
        (Doubles(), "gave float64"),
        (Raises(), "failed while it ran"),
    ],
    ids=["shape", "dtype", "raises"],
)
def test_wrong_answers_are_named(tmp_path: Path, module: nn.Module, words: str) -> None:
    cell = run_cell(job_for(saved(module, tmp_path), tmp_path))
    assert cell.result.outcome is Outcome.FAILED
    assert cell.result.exit_code == 4
    assert cell.outputs is None
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(cell.result.reason)


def test_a_hang_ends_at_its_time_limit(tmp_path: Path) -> None:
    cell = run_cell(job_for(saved(Endless(), tmp_path), tmp_path, timeout_s=4.0))
    assert cell.result.outcome is Outcome.FAILED
    assert "time limit of 4 s" in (cell.result.reason or "")


def test_a_truncated_file_would_not_load(tmp_path: Path) -> None:
    path = saved(MeanByChannel(), tmp_path)
    path.write_bytes(path.read_bytes()[:-700])
    cell = run_cell(job_for(path, tmp_path))
    assert cell.result.outcome is Outcome.FAILED
    assert cell.result.exit_code == 3
    assert "model.ptl" in (cell.result.reason or "")


def test_a_process_that_dies_is_a_failed_cell(tmp_path: Path) -> None:
    path = saved(MeanByChannel(), tmp_path)
    job = job_for(path, tmp_path)
    (tmp_path / "inputs.npy").write_bytes(b"no numbers")
    cell = run_cell(job)
    assert cell.result.outcome is Outcome.FAILED
    assert (cell.result.reason or "").startswith("ValueError: ")
    assert cell.result.exit_code == 4


def test_an_interrupted_cell_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_for(saved(Endless(), tmp_path), tmp_path)
    other = Setting(name="other", engine=None, threads=1, batch_size=5, inputs_path=job.inputs_path)
    started, begun = [], threading.Event()

    def start(*arguments: Any, **options: Any) -> str | None:
        started.append(arguments)
        begun.set()
        return run_child(*arguments, **options)

    monkeypatch.setattr(harness.cell.run, "run_child", start)
    futures: list[Future[Cell]] = []

    def interrupted() -> None:
        with child_pool(1) as pool:
            futures.append(pool.submit(run_cell, dataclasses.replace(job, others=(other,))))
            begun.wait(60)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert isinstance(futures[0].exception(), StoppedError)
    assert len(started) == 1
