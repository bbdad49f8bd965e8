"""The phone's own library as a runner: its answers, its failures, and the end of its process."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from exporters.bundle.manifest import Variant
from harness.cell.measure import _waited_ns, measure_memory, model_pid
from harness.cell.run import Job, answering_job, run_cell
from harness.runners.android import open_session
from harness.runners.table import RUNNERS
from harness.runtime.catalogue import runtime
from harness.runtime.session import LibrarySession
from harness.runtime.setup import find_folder
from udacisense.base.records import Outcome
from udacisense.errors import InferenceError, InputError, LoadError

pytestmark = pytest.mark.android

Saved = tuple[Path, NDArray[np.float32], NDArray[np.float32]]
Save = Callable[[nn.Module, torch.Tensor], Saved]


def _variant(path: Path) -> Variant:
    return Variant(
        id=path.stem,
        format="ptl",
        precision="fp32",
        engine=None,
        path=path.name,
        sha256=None,
        file_bytes=None,
        input_kind="normalized",
        output_kind="logits",
        batch=None,
        coverage=None,
        precision_note="",
        golden_logits_path=None,
        options={},
        toolchain={},
        deterministic=True,
        outcome=Outcome.PASSED,
        reason=None,
        duration_s=0.0,
    )


def _job(runner: str, path: Path, inputs: Path, *, threads: int = 1, batch_size: int = 1) -> Job:
    asked = {"engine": None, "threads": threads, "batch_size": batch_size, "timeout_s": 240.0}
    return answering_job(_variant(path), runner, path, inputs, **asked)


def _worker_pid(session: LibrarySession) -> int:
    return session._process.pid


@pytest.mark.parametrize(("threads", "batch_size"), [(1, 1), (2, 1), (1, 3)])
def test_x86_64_answers_as_the_model_does(x86_64: str, small_ptl: Saved, threads: int, batch_size: int) -> None:
    path, images, expected = small_ptl
    with open_session(x86_64, path, threads=threads) as session:
        answers = [session.run(images[i : i + batch_size]) for i in range(0, len(images), batch_size)]
        assert session.actual["threads"] == threads
        assert session.actual["engine"] == "qnnpack"
    np.testing.assert_allclose(np.concatenate(answers), expected, rtol=1e-4, atol=1e-5)


def test_arm64_answers_as_the_model_does(arm64: str, small_ptl: Saved) -> None:
    path, images, expected = small_ptl
    with open_session(arm64, path, threads=2) as session:
        answers = [session.run(images[:1]), session.run(images[1:3])]
        assert session.actual["abi"] == "arm64-v8a"
    np.testing.assert_allclose(np.concatenate(answers), expected[:3], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["android-x86_64", "android-arm64"])
def test_a_cell_runs_through_the_runners_table(
    name: str, small_ptl: Saved, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(name.removeprefix("android-"))
    path, images, expected = small_ptl
    np.save(tmp_path / "inputs.npy", images)
    cell = run_cell(_job(name, path, tmp_path / "inputs.npy"))
    assert cell.result.outcome is Outcome.PASSED, cell.result.reason
    assert cell.result.actual["library"] == "pytorch_android_lite 1.12.2"
    assert cell.outputs is not None
    np.testing.assert_allclose(cell.outputs, expected, rtol=1e-4, atol=1e-5)


def test_memory_and_waiting_are_of_the_process_that_holds_the_model(
    x86_64: str, small_ptl: Saved, tmp_path: Path
) -> None:
    path, images, _ = small_ptl
    np.save(tmp_path / "inputs.npy", images)
    session = RUNNERS[x86_64].load(path, _variant(path), engine=None, threads=1)
    pid = model_pid(session)
    assert pid is not None
    assert Path(f"/proc/{pid}/comm").read_text().strip() == "java"
    ballast = np.ones(80_000_000)  # 640 MB here must not show in the JVM's peak
    job = dataclasses.replace(_job(x86_64, path, tmp_path / "inputs.npy"), task="memory")
    assert 50_000_000 < measure_memory(job, session, tmp_path)["peak_rss_bytes"] < ballast.nbytes
    assert str(pid) in _waited_ns(pid).keys() - _waited_ns().keys()


class Pointwise(nn.Module):
    """A squeeze-excite's convolution: 1×1 on a 1×1 map."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(48, 8, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.convolution(images.reshape(-1, 48, 1, 1)).flatten(1)


class PointwiseAsLinear(Pointwise):
    """The same numbers as a linear layer."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        convolution = self.convolution
        return nn.functional.linear(images.reshape(-1, 48), convolution.weight.flatten(1), convolution.bias)


def test_the_emulators_kernel_loses_channels_of_a_pointwise_convolution(x86_64: str, save_ptl: Save) -> None:
    """What docs/android-runtime.md tells: three channels of four are their bias alone."""
    torch.manual_seed(3)
    model = Pointwise()
    path, image, expected = save_ptl(model, torch.randn(1, 3, 4, 4))
    with open_session(x86_64, path) as session:
        answer = session.run(image)
    lost = np.arange(8) % 4 != 3
    bias = model.convolution.bias.detach().numpy()
    np.testing.assert_array_equal(answer[0, lost], bias[lost])
    np.testing.assert_allclose(answer[:, ~lost], expected[:, ~lost], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("runtime_fixture", ["x86_64", "arm64"])
def test_as_a_linear_layer_it_is_right_in_both(
    runtime_fixture: str, save_ptl: Save, request: pytest.FixtureRequest
) -> None:
    torch.manual_seed(3)
    path, image, expected = save_ptl(PointwiseAsLinear(), torch.randn(1, 3, 4, 4))
    with open_session(request.getfixturevalue(runtime_fixture), path) as session:
        np.testing.assert_allclose(session.run(image), expected, rtol=1e-4, atol=1e-5)


def test_two_workers_do_not_disturb_each_other(x86_64: str, small_ptl: Saved) -> None:
    path, images, expected = small_ptl

    def answer(index: int) -> NDArray[np.float32]:
        with open_session(x86_64, path) as session:
            return np.concatenate([session.run(images[index : index + 1]) for _ in range(20)])

    with ThreadPoolExecutor(3) as pool:
        for index, answers in enumerate(pool.map(answer, range(3))):
            assert (answers == answers[0]).all()
            np.testing.assert_allclose(answers[:1], expected[index : index + 1], rtol=1e-4, atol=1e-5)


def test_a_file_that_is_no_model_would_not_load(x86_64: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.ptl"
    path.write_bytes(b"PK\x03\x04 not a model")
    np.save(tmp_path / "inputs.npy", np.zeros((1, 3, 32, 32), np.float32))
    cell = run_cell(_job(x86_64, path, tmp_path / "inputs.npy"))
    assert (cell.result.outcome, cell.result.exit_code) == (Outcome.FAILED, 3)
    assert "PytorchStreamReader" in str(cell.result.reason)  # the library's own word


def test_a_model_that_fails_gives_the_librarys_own_word(x86_64: str, tmp_path: Path) -> None:
    class Corner(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images[:, 0, 20, :10]

    path = tmp_path / "corner.ptl"
    traced = torch.jit.trace(Corner().eval(), torch.zeros(1, 3, 32, 32))
    torch.jit.freeze(traced)._save_for_lite_interpreter(str(path))
    np.save(tmp_path / "inputs.npy", np.zeros((1, 3, 8, 8), np.float32))
    cell = run_cell(_job(x86_64, path, tmp_path / "inputs.npy"))
    assert (cell.result.outcome, cell.result.exit_code) == (Outcome.FAILED, 4)
    assert "index 20 out of range" in str(cell.result.reason)


def _run_until_it_falls(session: LibrarySession, images: np.ndarray) -> None:
    """A JVM takes a moment to die of SIGABRT or to stop, and may answer once more before it does."""
    for _ in range(100_000):
        session.run(images)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT])
def test_a_fallen_library_is_an_inference_error(x86_64: str, small_ptl: Saved, number: signal.Signals) -> None:
    path, images, _ = small_ptl
    with open_session(x86_64, path) as session:
        session.run(images[:1])
        os.kill(_worker_pid(session), number)
        with pytest.raises(InferenceError, match=number.name):
            _run_until_it_falls(session, images[:1])


def test_a_hanging_library_is_an_inference_error(x86_64: str, small_ptl: Saved) -> None:
    path, images, _ = small_ptl
    folder = find_folder(x86_64)
    assert folder is not None
    with LibrarySession(
        runtime(x86_64), folder, path, library_version="1.12.2", engine=None, threads=1, answer_timeout_s=30.0
    ) as session:
        session.run(images[:1])
        os.kill(_worker_pid(session), signal.SIGSTOP)
        session._timeout_s = 1.0
        with pytest.raises(InferenceError, match="no answer within 1 s"):
            _run_until_it_falls(session, images[:1])


def test_the_library_ends_with_its_worker(x86_64: str, small_ptl: Saved) -> None:
    path, _, _ = small_ptl
    code = (
        "import sys\nfrom pathlib import Path\nfrom harness.runners.android import open_session\n"
        f"session = open_session('{x86_64}', Path(sys.argv[1]))\n"
        "print(session._process.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(words, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        pid = int(worker.stdout.readline())
        os.kill(pid, 0)
        worker.kill()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1][:3]:
        assert time.monotonic() < deadline, "the JVM outlived its worker"
        time.sleep(0.05)


def test_nothing_of_the_host_is_shadowed(x86_64: str, small_ptl: Saved) -> None:
    path, _, _ = small_ptl
    with open_session(x86_64, path) as session:
        pid = _worker_pid(session)
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        maps = Path(f"/proc/{pid}/maps").read_text()
    assert not [entry for entry in environment if entry.startswith((b"LD_LIBRARY_PATH=", b"LD_PRELOAD="))]
    folder = find_folder(x86_64)
    assert f"{folder}/lib/libpytorch_jni_lite.so" in maps
    assert "/libc.so.6" in maps  # the JVM keeps the host's


def test_another_engine_is_refused(x86_64: str, small_ptl: Saved) -> None:
    with pytest.raises(InputError, match="qnnpack; 'fbgemm' was asked for"):
        open_session(x86_64, small_ptl[0], engine="fbgemm")


def test_without_a_runtime_the_runner_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UDACISENSE_CACHE", str(tmp_path))
    for name in ("android-x86_64", "android-arm64"):
        assert f"udacisense runtime add {name}" in str(RUNNERS[name].unavailable())
        with pytest.raises(LoadError, match="runtime add"):
            RUNNERS[name].load(tmp_path / "m.ptl", _variant(tmp_path / "m.ptl"), engine=None, threads=1)
