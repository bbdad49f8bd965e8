"""What users bring of their own: code in the folder they work in, blanks in names, a zip, many classes."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from udacisense.cli.main import run
from udacisense.data.shapes import draw_dataset
from udacisense.errors import Interrupted

REPOSITORY = Path(__file__).resolve().parents[3]
PROGRAM = "import sys; from udacisense.cli.main import main; sys.argv[0] = 'udacisense'; main()"
OWN_CODE = """
from torch import nn


def build():
    features = nn.Sequential(nn.Conv2d(3, 64, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(features, nn.Linear(64, 640), nn.ReLU(), nn.Linear(640, 10))  # as large as a student of p2
"""
TRAINING = """
from pathlib import Path

from udacisense.data.images import load_dataset
from udacisense.training import TrainConfig, train_model
from udacisense.base.records import ModelSpec

spec = ModelSpec(architecture="own:build", options={})
train_model(spec, load_dataset("my photos"), config=TrainConfig(epochs=1), output_dir=Path("runs/mine"))
"""


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: a model's code, images, and an artifact of the two."""
    folder = tmp_path_factory.mktemp("desk")
    draw_dataset(folder / "my photos", train_per_class=4, test_per_class=1, seed=0)
    (folder / "own.py").write_text(OWN_CODE)
    (folder / "train.py").write_text(TRAINING)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "train.py"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


def at(desk: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a user's folder, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=desk,
        # As the installed program, which does not search the folder that it is started in.
        env={**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )


def next_of(told: str) -> list[str]:
    """Return the arguments of the command that was printed as the next one, as a shell would split it."""
    (line,) = [line for line in told.splitlines() if line.startswith("Next:")]
    words = shlex.split(line.removeprefix("Next:"))
    assert words.pop(0) == "udacisense"
    return words


@pytest.mark.slow
def test_evaluate_finds_code_in_the_users_folder_and_names_an_export_that_works(desk: Path) -> None:
    told = at(desk, "evaluate", "runs/mine/artifact", "--data", "my photos", "--allow-factory", "own:build")
    assert told.returncode == 0, told.stderr
    assert "own:build on 10 test images of my photos" in told.stdout
    done = at(desk, *next_of(told.stdout), "-f", "onnx", "--precision", "fp32", "-o", "my bundle")
    assert done.returncode == 0, done.stderr
    assert (desk / "my bundle" / "manifest.json").is_file()
    verified = at(desk, *next_of(done.stdout))
    assert verified.returncode == 0, verified.stderr
    assert "my bundle" in next_of(done.stdout), "a blank in a name is no end of it"
    timed = at(desk, *next_of(verified.stdout), "--quick", "--dry-run")
    assert timed.returncode == 0, timed.stderr
    assert next_of(verified.stdout) == ["bench", "my bundle", "--allow-factory", "own:build"]


@pytest.mark.slow
def test_inspect_names_a_verification_that_works(desk: Path) -> None:
    line = ["export", "own:build", "--input-shape", "1,3,32,32", "-f", "onnx", "--precision", "fp32", "-o", "a bundle"]
    assert at(desk, *line).returncode == 0
    told = at(desk, "inspect", "a bundle")
    assert told.returncode == 0, told.stderr
    assert next_of(told.stdout) == ["verify", "a bundle", "--allow-factory", "own:build"]
    done = at(desk, *next_of(told.stdout))
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_compress_takes_a_baseline_of_the_users_own_code_where_it_is_allowed(desk: Path) -> None:
    line = ["compress", "--pipeline", "p2", "--baseline", "runs/mine/artifact", "--data", "my photos", "--dry-run"]
    refused = at(desk, *line, "-o", "runs/p2")
    assert refused.returncode == 2
    assert "allow it by name: --allow-factory own:build." in refused.stderr
    told = at(desk, *line, "-o", "runs/p2", "--allow-factory", "own:build")
    assert told.returncode == 0, told.stderr
    assert "80 epochs of 30 images: about" in told.stderr
    told = at(desk, *line, "--teacher", "runs/mine/artifact", "-o", "runs/p2", "--allow-factory", "own:build")
    assert told.returncode == 0, told.stderr


@pytest.mark.slow
def test_techniques_take_a_baseline_of_the_users_own_code_where_it_is_allowed(desk: Path) -> None:
    line = ["techniques", "--baseline", "runs/mine/artifact", "--data", "my photos", "--technique", "dynamic-int8"]
    refused = at(desk, *line, "-o", "one by one")
    assert refused.returncode == 2
    assert "allow it by name: --allow-factory own:build." in refused.stderr
    told = at(desk, *line, "-o", "one by one", "--allow-factory", "own:build")
    assert told.returncode == 0, told.stderr
    assert (desk / "one by one" / "techniques.md").is_file()


@pytest.mark.parametrize(
    "line",
    [
        "evaluate X --data X",
        "compress --pipeline p1 --baseline X --data X -o X",
        "techniques --baseline X --data X -o X",
        "export X -o X",
        "verify X",
        "bench X",
        "device bench X",
        "device pull X",
    ],
)
def test_every_command_that_may_run_a_users_code_finds_it_in_the_working_folder(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "code_beside_the_user.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(REPOSITORY), *(place for place in sys.path if place)])
    assert run(line.split()) == 2, "X is nothing"
    assert importlib.util.find_spec("code_beside_the_user") is None, "nobody asked for it"
    assert run([*line.split(), "--allow-factory", "code_beside_the_user:build"]) == 2
    assert "No such option" not in capsys.readouterr().err
    assert importlib.util.find_spec("code_beside_the_user") is not None


@pytest.mark.slow
def test_the_next_command_can_be_pasted_where_names_have_blanks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, runs = tmp_path / "my photos", tmp_path / "my run"
    draw_dataset(data, train_per_class=4, test_per_class=1, seed=0)
    line = ["--model", "p1-slim", "--resolution", "32", "--epochs", "1"]
    assert run(["train", "--data", str(data), *line, "-o", str(runs)]) == 0
    given = ["--baseline", str(runs / "artifact"), "--data", str(data)]
    assert next_of(capsys.readouterr().out) == ["compress", "--pipeline", "p1", *given, "-o", "runs/p1"]
    assert run(["evaluate", str(runs / "artifact"), "--data", str(data)]) == 0
    assert next_of(capsys.readouterr().out) == ["compress", "--pipeline", "p1", *given, "-o", "runs/p1"]
    assert run(["techniques", *given, "--technique", "graph", "-o", str(runs / "one by one")]) == 0
    assert next_of(capsys.readouterr().out) == ["report", str(runs / "one by one"), "-o", "report.html"]
    made = tmp_path / "my p2"
    assert run(["compress", "--pipeline", "p2", *given, "--resolution", "32", "--epochs", "1", "-o", str(made)]) == 0
    wanted = ["export", str(made / "artifact"), "--data", str(data), "-o", str(made / "bundle")]
    assert next_of(capsys.readouterr().out) == wanted


NAMESAKES = ("random.py", "sitecustomize.py", "exporters/__init__.py", "harness/__init__.py")
TALKING = """
import os
import sys
import torch
from safetensors.torch import load_file
from torch import nn

print("a factory's module")


class Talks(nn.Sequential):
    def forward(self, x):
        print("a model's forward")
        os.write(1, b"past Python")
        sys.__stdout__.write("past what replaces it")
        return super().forward(x)


def build():
    print("a factory")
    assert sys.argv[1:] == []
    model = Talks(nn.Conv2d(3, 16, 3, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    model.load_state_dict(load_file("my weights.safetensors"))
    return model
"""


@pytest.mark.slow
def test_code_of_the_user_under_names_of_others_is_in_nobodys_way(tmp_path: Path) -> None:
    from safetensors.torch import save_file
    from torch import nn

    for name in NAMESAKES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("raise SystemExit(7)")
    (tmp_path / "net.py").write_text(TALKING)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Flatten(), nn.Identity(), nn.Linear(16, 10))
    save_file(model.state_dict(), tmp_path / "my weights.safetensors")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    for line in (
        "export net:build --input-shape 1,3,32,32 -f onnx --precision fp32 -o b --json",
        "verify b --allow-factory net:build --json",
    ):
        # Started so, Python itself would search the folder first.
        command = [sys.executable, "-c", PROGRAM, *line.split()]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        json.loads(done.stdout)
    assert {path.name.partition("/")[0] for path in tmp_path.iterdir()} == {
        *(Path(name).parts[0] for name in NAMESAKES),
        *("net.py", "my weights.safetensors", "b", "b.verify.json"),
    }


@pytest.fixture
def with_ctrl_c() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, lambda *_: None)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("with_ctrl_c")
@pytest.mark.parametrize("place", ["import", "call", "forward"])
def test_an_interrupt_that_a_users_code_raises_is_no_ctrl_c(
    place: str, folder_of_code: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"interrupts_at_{place}"
    lines = {"import": "", "call": "    ", "forward": "            "}
    code = lines[place] + "raise KeyboardInterrupt"
    parts = {key: code if key == place else indent + "pass" for key, indent in lines.items()}
    (folder_of_code / f"{name}.py").write_text(
        "from torch import nn\n{import}\ndef build():\n{call}\n    class Net(nn.Module):\n"
        "        def forward(self, x):\n{forward}\n    return Net()".format(**parts)
    )
    line = ["export", f"{name}:build", "--input-shape", "1,3,32,32", "-o", str(folder_of_code / "b")]
    assert run(line) == 2
    assert f"KeyboardInterrupt: at {name}.py:" in capsys.readouterr().err


def test_a_forward_that_fails_later_is_told_with_its_line(
    folder_of_code: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder_of_code / "fails_later.py").write_text(
        "import torch\nfrom torch import nn\nclass Net(nn.Linear):\n    calls = [0]\n    def forward(self, x):\n"
        "        self.calls[0] += 1\n        if self.calls[0] > 40: raise ValueError('the licence ended')\n"
        "        return super().forward(x.flatten(1))\n"
        "def build():\n    torch.manual_seed(0)\n    return Net(3072, 10)"
    )
    line = ["export", "fails_later:build", "--input-shape", "1,3,32,32", "-o", str(folder_of_code / "b")]
    assert run(line) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("error: Code that is not this program's failed at fails_later.py:7 (if self.calls[0] > 40: ")
    assert told.endswith("ValueError: the licence ended.")


@pytest.mark.usefixtures("with_ctrl_c")
@pytest.mark.parametrize(("ended_by", "code"), [(Interrupted(), 130), (KeyboardInterrupt(), 2), (SystemExit(0), 2)])
def test_what_ends_a_command_is_told_by_whose_it_is(
    ended_by: BaseException, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end() -> None:
        raise ended_by

    monkeypatch.setattr("udacisense.data.decoding.list_caches", end)
    assert run(["data", "list"]) == code


@pytest.fixture
def folder_of_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("import a_package_that_nobody_has", "ModuleNotFoundError: No module named 'a_package_that_nobody_has'"),
        ("{}['width']", "KeyError: 'width'"),
        ("assert False, 'no weights'", "AssertionError: no weights"),
        ("import pickle; pickle.loads(b'no')", "UnpicklingError: "),
        ("import sys; sys.exit('no CUDA')", "SystemExit: no CUDA"),
        ("raise ValueError(500 * 'x ' + 'and here is why')", "and here is why"),
    ],
)
@pytest.mark.parametrize("text", ["{0}\ndef build(): pass", "def build():\n    {0}"], ids=["import", "call"])
def test_what_a_factory_raises_is_one_sentence_with_its_cause(
    text: str, code: str, cause: str, folder_of_code: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"raises_{abs(hash(text + code))}"
    (folder_of_code / f"{name}.py").write_text(text.format(code))
    assert run(["export", f"{name}:build", "--input-shape", "1,3,32,32", "-o", str(folder_of_code / "b")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert cause in line
    assert not (folder_of_code / "b").exists()


@pytest.mark.parametrize("tolerance", ["0", "0.1"])
def test_the_next_step_after_a_failure_finds_where_it_broke(
    stage: Callable[..., Path], capsys: pytest.CaptureFixture[str], tmp_path: Path, tolerance: str
) -> None:
    bundle = str(stage("onnx"))
    line = ["verify", bundle, "--variant", "onnx-fp32", "--runner", "onnxruntime", "-o", str(tmp_path / "record.json")]
    fails = tolerance == "0"
    assert run([*line, "--rtol", tolerance, "--atol", tolerance]) == int(fails)
    place = ["--locate", "onnx-fp32", "--runner", "onnxruntime"]
    assert next_of(capsys.readouterr().out) == (["verify", bundle, *place] if fails else ["bench", bundle])


@pytest.mark.parametrize("ends", ["nn.Softmax(1)", "nn.Identity()"])
def test_training_a_network_that_answers_probabilities_says_so(
    ends: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_dataset(tmp_path / "photos", train_per_class=4, test_per_class=1, seed=0)
    name = f"ends_{ends[3:8].lower()}"
    layers = f"nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10), {ends}"
    (tmp_path / f"{name}.py").write_text(f"from torch import nn\n\ndef build():\n    return nn.Sequential({layers})\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    line = ["train", "--data", "photos", "--model", f"{name}:build", "-o", "run", "--dry-run"]
    assert run(line) == 0
    assert ("as behind a softmax" in capsys.readouterr().err) is ("Softmax" in ends)
