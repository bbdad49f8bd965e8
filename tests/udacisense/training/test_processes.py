"""Training on several processes: two of them on this machine, by gloo."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import training_cases
from safetensors.torch import load_file
from training_cases import coloured

from udacisense.data.batches import Batches
from udacisense.data.shapes import draw_dataset

SCRIPT = """
import sys
sys.path[:0] = {paths!r}
from pathlib import Path
import torch
import training_cases
from safetensors.torch import save_file
torch.set_num_threads(1)
from training_cases import build, coloured, tiny_spec
from udacisense.data.batches import Batches
from udacisense.data.images import NO_LABEL
from udacisense.training import Auxiliary, Compute, Distillation, TrainConfig, train
from udacisense.training.transfer import TransferBatches, folder_classes

labelled, others = coloured(40, seed=1), coloured(60, seed=2)
others.labels[:] = NO_LABEL
folders = folder_classes(labelled.labels, ("red", "green", "blue"), ["a", "b"] * 30)
batches = TransferBatches(labelled, others, batch_size=20, ratio=1.0, mix=0.5, folders=folders)
model = build(tiny_spec())
for module in model.modules():
    if isinstance(module, torch.nn.Dropout):
        module.p = 0.0  # each process draws its own

def freeze(training, epoch):  # the statistics of a batch are those of a process's part, on CPUs
    for module in training.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()

config = TrainConfig(
    epochs=2, optimizer="sgd", momentum=0.0, weight_decay=0.0, learning_rate=0.05, warmup_epochs=0,
    schedule="constant", compute=Compute(devices={devices}),
)
result = train(
    model, batches, config=config, before_epoch=freeze, auxiliary=Auxiliary(folders=True),
    distillation=Distillation(teacher=build(tiny_spec(), seed=3), temperature=2.0, alpha=0.5, remember=True),
)
from udacisense.training.compute import is_leader
if is_leader():
    save_file(dict(result.model.state_dict()), {out!r})
    print(result.history.epochs[-1].train_loss)
"""


def run_script(tmp_path: Path, devices: int) -> tuple[dict[str, torch.Tensor], float]:
    script, out = tmp_path / f"train{devices}.py", tmp_path / f"{devices}.safetensors"
    paths = [str(Path(training_cases.__file__).parent), str(Path(__file__).parents[3])]
    script.write_text(SCRIPT.format(paths=paths, devices=devices, out=str(out)))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == 0, done.stderr
    return load_file(out), float(done.stdout.split()[-1])


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one_with_the_joined_batch(tmp_path: Path) -> None:
    """Plain SGD adds the gradients up: equal weights after every step are equal gradients."""
    one, loss = run_script(tmp_path, 1)
    two, loss_of_two = run_script(tmp_path, 2)
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-6, msg=name)
    assert loss_of_two == pytest.approx(loss, rel=1e-4)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes") / "data"
    draw_dataset(folder, train_per_class=20, test_per_class=4, seed=0)
    return folder


def command(shapes: Path, output: Path, *more: str) -> subprocess.Popen[str]:
    program = Path(sys.executable).with_name("udacisense")
    line = [str(program), "train", "--data", str(shapes), "--model", "tiny"]
    line += ["--epochs", "6", "--batch-size", "16", "-o", str(output), *more]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())


def n_epochs(output: Path) -> int:
    history = output / "training" / "history.json"
    return len(json.loads(history.read_text())["epochs"]) if history.is_file() else 0


@pytest.mark.slow
def test_a_killed_process_ends_the_run_with_a_sentence_and_the_same_command_goes_on(
    tmp_path: Path, shapes: Path
) -> None:
    import psutil

    output = tmp_path / "run"
    started = command(shapes, output, "--devices", "2")
    deadline = time.monotonic() + 900
    while n_epochs(output) < 1 and started.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert started.poll() is None, started.stderr.read() if started.stderr else ""
    children = [c for c in psutil.Process(started.pid).children() if "train" in c.cmdline()]
    assert len(children) == 1
    os.kill(children[0].pid, signal.SIGKILL)
    _, said = started.communicate(timeout=300)
    assert started.returncode == 1, said
    assert "Traceback" not in said
    ended = f"broke off: process {children[0].pid} ended by signal 9; the same command goes on"
    assert ended in " ".join(said.split())
    kept = n_epochs(output)
    assert 1 <= kept < 6
    again = command(shapes, output, "--devices", "2")
    _, said = again.communicate(timeout=900)
    assert again.returncode == 0, said
    assert n_epochs(output) == 6
    assert f"epoch {kept}/6" not in said, "it began anew"
    assert (output / "artifact" / "artifact.json").is_file()


def test_the_parts_of_a_batch_are_the_batch() -> None:
    images = coloured(50, seed=1)
    whole = Batches(images, batch_size=16, shuffle=True, augment=True)
    parts = [whole.on(torch.device("cpu"), (rank, 3)) for rank in range(3)]
    assert len(parts[0]) == 3  # the last batch of two has less than an image for each
    for batch, *of_three in zip(whole, *parts, strict=False):
        labels = torch.cat([labels for _, labels in of_three])
        assert len(labels) == 15
        assert len({len(labels) for _, labels in of_three}) == 1
        assert torch.equal(labels.sort().values, batch[1][:15].sort().values)
