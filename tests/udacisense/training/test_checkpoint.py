from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import training_cases
from safetensors import safe_open
from training_cases import batches, build, coloured, held_back, tiny_spec

from udacisense.data.batches import Batches
from udacisense.errors import InputError, LoadError
from udacisense.training import Distillation, Keep, TrainConfig, TrainResult, train
from udacisense.training.checkpoint import state_sha256

CONFIG = TrainConfig(epochs=4, learning_rate=1e-2, warmup_epochs=0.5, ema_decay=0.9, channels_last=True)

VARIANTS = {
    "adamw-cosine-ema-channels-last": CONFIG,
    "sgd-plateau": dataclasses.replace(
        CONFIG, optimizer="sgd", schedule="plateau", plateau_patience=0, ema_decay=None, channels_last=False
    ),
    "sgd-no-momentum": dataclasses.replace(CONFIG, optimizer="sgd", momentum=0.0, ema_decay=None),
    "early-stopping": dataclasses.replace(CONFIG, epochs=8, early_stopping_patience=3),
}


class Interrupted(Batches):
    """Ctrl-C in the second step of an epoch."""

    at = 2

    def __iter__(self):
        for step, batch in enumerate(super().__iter__()):
            if self.epoch == self.at and step == 1:
                raise KeyboardInterrupt
            yield batch


def run(
    folder: Path | None, *, config: TrainConfig = CONFIG, resume: bool = False, source: Batches | None = None
) -> TrainResult:
    return train(
        build(tiny_spec()),
        source or batches(),
        config=config,
        validation=held_back(),
        distillation=Distillation(teacher=build(tiny_spec(), seed=7), temperature=3.0, alpha=0.5),
        keep=None if folder is None else Keep(folder=folder, identity={"data": "colours"}, resume=resume),
    )


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_interrupted_and_resumed_equals_uninterrupted_bit_by_bit(tmp_path: Path, config: TrainConfig) -> None:
    whole = run(None, config=config)
    interrupted = Interrupted(coloured(48, seed=1), batch_size=16, shuffle=True, augment=True)
    assert len(whole.history.epochs) > Interrupted.at
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, config=config, source=interrupted)
    resumed = run(tmp_path, config=config, resume=True)
    assert state_sha256(resumed.model) == state_sha256(whole.model)
    assert resumed.history.best_epoch == whole.history.best_epoch

    def figures(result: TrainResult) -> list[tuple[object, ...]]:
        return [(e.train_loss, e.validation_loss, e.validation_top1_fraction, e.lr) for e in result.history.epochs]

    assert figures(resumed) == figures(whole)


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first = run(tmp_path)

    class Untouchable(Batches):
        def __iter__(self):
            raise AssertionError("a finished run was trained again")

    again = run(tmp_path, resume=True, source=Untouchable(coloured(48, seed=1), batch_size=16))
    assert state_sha256(again.model) == state_sha256(first.model)
    assert again.history == first.history


def test_resuming_with_nothing_there_starts_anew_and_not_resuming_drops_what_is_there(tmp_path: Path) -> None:
    first = run(tmp_path, resume=True)
    longer = dataclasses.replace(CONFIG, epochs=1)
    again = run(tmp_path, config=longer)
    assert len(again.history.epochs) == 1
    assert len(first.history.epochs) == 4


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    run(tmp_path)
    other = dataclasses.replace(CONFIG, epochs=9, learning_rate=5e-3)
    with pytest.raises(InputError, match=r"epochs = 4 \(now 9\), learning_rate = 0\.01 \(now 0\.005\)"):
        run(tmp_path, config=other, resume=True)


def test_other_data_weights_and_teacher_are_refused_by_name(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(InputError, match=r"data = colours .*initial_weights = .*teacher = "):
        train(
            build(tiny_spec(), seed=1),
            batches(),
            config=CONFIG,
            distillation=Distillation(teacher=build(tiny_spec(), seed=8), temperature=3.0, alpha=0.5),
            keep=Keep(folder=tmp_path, identity={"data": "others"}, resume=True),
        )


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "foreign"])
def test_a_damaged_checkpoint_is_refused_by_path(tmp_path: Path, damage: str) -> None:
    run(tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    content = path.read_bytes()
    if damage == "foreign":
        from safetensors.torch import save_file

        save_file({"weight": torch.zeros(2)}, path)
    else:
        path.write_bytes({"cut": content[: len(content) // 2], "text": b"no checkpoint at all", "empty": b""}[damage])
    with pytest.raises(LoadError, match=r"checkpoint\.safetensors is no readable checkpoint"):
        run(tmp_path, resume=True)


@pytest.mark.parametrize("place", [0.3, 0.6, 0.9])
def test_one_flipped_bit_of_a_checkpoint_is_noticed(tmp_path: Path, place: float) -> None:
    """It would otherwise become part of the weights, and nobody could tell."""
    run(tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    content = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    content[header + int(place * (len(content) - header))] ^= 1
    path.write_bytes(content)
    with pytest.raises(LoadError, match="SHA-256"):
        run(tmp_path, resume=True)


def test_the_checkpoint_is_one_safetensors_file_with_everything_in_it(tmp_path: Path) -> None:
    run(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.safetensors", "history.json"]
    with safe_open(tmp_path / "checkpoint.safetensors", framework="pt") as stream:
        groups = {key.split(".")[0] for key in stream.keys()}  # noqa: SIM118
        assert "schema_version" in stream.metadata()["state"]
    assert groups == {"model", "best", "ema", "optimizer", "rng"}


WORKER = """
import sys
sys.path[:0] = {tests!r}
from pathlib import Path
import torch
torch.set_num_threads(1)
import time
from training_cases import coloured
from test_checkpoint import run
from udacisense.data.batches import Batches

class Slow(Batches):
    def __iter__(self):
        for batch in super().__iter__():
            time.sleep(0.05)
            yield batch

source = Slow(coloured(48, seed=1), batch_size=16, shuffle=True, augment=True)
result = run(Path({folder!r}), source=source, resume=True)
from udacisense.training.checkpoint import state_sha256
print(state_sha256(result.model))
"""


@pytest.mark.slow
def test_a_run_killed_with_9_resumes_to_the_same_weights(tmp_path: Path) -> None:
    def start(folder: Path) -> subprocess.Popen[str]:
        code = WORKER.format(
            tests=[str(Path(__file__).parent), str(Path(training_cases.__file__).parent)], folder=str(folder)
        )
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env)

    killed = start(tmp_path / "killed")
    checkpoint = tmp_path / "killed" / "checkpoint.safetensors"
    deadline = time.monotonic() + 60
    while not checkpoint.exists() and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert killed.poll() is None, "it ended before it could be killed"
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    answers = []
    for folder in (tmp_path / "killed", tmp_path / "whole"):
        process = start(folder)
        answers.append(process.communicate(timeout=120)[0].split()[-1])
        assert process.returncode == 0
    assert answers[0] == answers[1]
