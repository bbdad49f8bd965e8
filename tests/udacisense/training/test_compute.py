from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from training_cases import batches, build, held_back, tiny_spec

from udacisense.errors import InputError
from udacisense.training import Compute, Keep, TrainConfig, compute, train
from udacisense.training.checkpoint import load_checkpoint, save_checkpoint
from udacisense.training.compute import will_compile
from udacisense.training.objective import Student

CONFIG = TrainConfig(epochs=4, learning_rate=1e-2, warmup_epochs=0, ema_decay=0.9)
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "change", [{"device": "tpu"}, {"precision": "8"}, {"devices": 0}, {"nodes": 0}, {"compile": "x"}]
)
def test_what_there_is_not_is_refused_by_name(change: dict[str, object]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(change))} is"):
        Compute(**change)  # type: ignore[arg-type]


def test_more_processes_than_cores_are_refused() -> None:
    with pytest.raises(InputError, match=r"devices is 99999; this machine has \d+ cores for processes"):
        Compute(devices=99999).check()


def test_half_precision_needs_a_gpu() -> None:
    with pytest.raises(InputError, match="precision 16 needs a GPU"):
        Compute(precision="16").check()


def stop(_model: torch.nn.Module, epoch: int) -> None:
    if epoch == 2:
        raise KeyboardInterrupt


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_run_begun_in_one_precision_is_finished_in_another(tmp_path: Path) -> None:
    short = dataclasses.replace(CONFIG, compute=Compute(precision="bf16", compile="off"))
    with pytest.raises(KeyboardInterrupt):
        train(build(tiny_spec()), batches(), config=short, keep=Keep(folder=tmp_path), before_epoch=stop)
    resumed = train(build(tiny_spec()), batches(), config=CONFIG, keep=Keep(folder=tmp_path, resume=True))
    whole = train(build(tiny_spec()), batches(), config=CONFIG)
    losses, expected = ([epoch.train_loss for epoch in r.history.epochs] for r in (resumed, whole))
    assert losses[0] != expected[0], "the first epochs were rounded otherwise"
    assert losses == pytest.approx(expected, rel=0.4)


def test_what_earlier_versions_wrote_of_data_and_device_is_taken_up(tmp_path: Path) -> None:
    train(build(tiny_spec()), batches(), config=CONFIG, keep=Keep(folder=tmp_path, identity={"data": "all"}))
    written = load_checkpoint(tmp_path, identity={**identity_in(tmp_path)})
    assert written is not None
    old = dataclasses.replace(written.state, identity={**written.state.identity, "device": "cuda"})
    groups = {name: written.group(name) for name in ("model", "best", "optimizer", "rng", "ema")}
    save_checkpoint(tmp_path, old, groups)
    kept = Keep(folder=tmp_path, identity={"data": "training"}, former={"data": "all"}, resume=True)
    again = train(build(tiny_spec()), batches(), config=CONFIG, keep=kept)
    assert len(again.history.epochs) == 4
    other = dataclasses.replace(kept, former={"data": "others"})
    with pytest.raises(InputError, match=r"data = all \(now training\)"):
        train(build(tiny_spec()), batches(), config=CONFIG, keep=other)


def identity_in(folder: Path) -> dict[str, object]:
    with safe_open(folder / "checkpoint.safetensors", framework="pt") as stream:
        return json.loads(stream.metadata()["state"])["identity"]


def test_compiling_is_for_long_runs_of_plain_networks() -> None:
    def will(**given: object) -> bool:
        settings: dict[str, object] = {"macs": 1e15, "is_plain": True, **given}
        return will_compile(Compute(compile=str(settings.pop("compile", "auto"))), CPU, **settings)  # type: ignore[arg-type]

    assert will(compile="on", macs=0.0)
    assert not will(compile="off")
    assert not will(macs=1e9)
    assert not will(is_plain=False)


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3, stride=4), torch.nn.BatchNorm2d(4), torch.nn.ReLU()
        )
        self.classifier = torch.nn.Linear(4, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(images).mean((2, 3)))


def small() -> Small:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return Small()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's compiler warns of itself
def test_a_compiled_run_is_the_run(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    plain, compiled = (
        train(
            small(),
            batches(),
            config=dataclasses.replace(CONFIG, compute=Compute(compile=how)),
            validation=held_back(),
        )
        for how in ("off", "on")
    )
    assert "not compiled" not in caplog.text
    # BatchNorm takes the bias in front of it away again: its gradient is rounding alone, which AdamW makes as large as
    # any, and the running mean trails behind it. These two count by the answers.
    drifting = ("features.0.bias", "features.1.running_mean")
    for name, tensor in plain.model.state_dict().items():
        if name not in drifting:
            torch.testing.assert_close(compiled.model.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)
    images = torch.cat([batch for batch, _ in held_back()])
    with torch.inference_mode():
        torch.testing.assert_close(compiled.model(images), plain.model(images), rtol=1e-2, atol=1e-2)


class Waves(Small):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images.sin() * self.features[0].weight.sin().mean())  # their derivatives are cosines


@pytest.fixture
def no_cosines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A C++ compiler that can do everything but cosines: forward passes, and no backward one of waves."""
    import torch._inductor.config as inductor

    compiler = tmp_path / "c++"
    refuses = 'grep -qsE "(tmp[0-9]+[.]|std::)cos[(]" "$f" && { echo "$f:1:1: error: no cosines here" >&2; exit 1; }'
    compiler.write_text(f'#!/bin/sh\nfor f; do case "$f" in *.cpp) {refuses} ;; esac; done\nexec g++ "$@"\n')
    compiler.chmod(0o755)
    torch._dynamo.reset()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    with inductor.patch({"cpp.cxx": (str(compiler),), "fx_graph_cache": False}):
        yield


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_backward_pass_that_cannot_be_compiled_ends_no_epoch(
    no_cosines: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(compute._LONG_RUN_MACS, "cpu", 0.0)
    result = train(Waves(), batches(), config=dataclasses.replace(CONFIG, compute=Compute(compile="auto")))
    assert len(result.history.epochs) == 4
    notes = [r.getMessage() for r in caplog.records if "compiled" in r.getMessage()]
    assert len(notes) == 1
    assert notes[0].startswith("The network is trained without being compiled: ")
    assert notes[0].endswith("error: no cosines here.")
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_network_that_has_to_be_compiled_and_cannot_be_ends_the_run(no_cosines: None) -> None:
    with pytest.raises(InputError, match=r"cannot be compiled .*error: no cosines here\); give --compile auto"):
        train(Waves(), batches(), config=dataclasses.replace(CONFIG, compute=Compute(compile="on")))


def test_a_step_that_fails_later_is_taken_as_it_is_and_its_own_faults_are_its_own(
    caplog: pytest.LogCaptureFixture,
) -> None:
    student = Student(small(), {}, torch.empty(0))
    student.compile_for(4, must=False)
    fails = [True, False]

    def step() -> torch.Tensor:
        if fails.pop(0):
            raise AssertionError("guards\nmore")
        return torch.ones(())

    assert student.compiled_or_not(step) == 1
    assert "without being compiled: AssertionError: guards more." in caplog.text
    fails[:] = [True]
    with pytest.raises(AssertionError, match="guards"):
        student.compiled_or_not(step)
