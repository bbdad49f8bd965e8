"""What commands say of odd things that they are given: before any work, one sentence with the cause."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from exporters.bundle.manifest import Manifest
from exporters.bundle.open import write_zip
from udacisense.base.records import write_record
from udacisense.cli.main import run
from udacisense.data.images import load_dataset
from udacisense.data.shapes import draw_dataset
from udacisense.errors import InputError
from udacisense.training import TrainConfig, train_model


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("x")
    Path("link").symlink_to("link")
    Path("bundle/golden").mkdir(parents=True)
    Path("bundle/manifest.json").write_text("{}")
    return tmp_path


FOLDER = {
    "file": "is a file; give a folder",
    "file/run": "file is a file",
    "/dev/full": "is a device",
    "link": "a link that leads nowhere",
    "bundle/run": "lies in the bundle",
}


@pytest.mark.parametrize("output", FOLDER)
@pytest.mark.parametrize("command", [["train"], ["compress", "--pipeline", "p1"], ["techniques"], ["search"]])
@pytest.mark.usefixtures("here")
def test_where_no_folder_can_be_written_is_said_before_any_work(
    command: list[str], output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    needed = ["--baseline", "nothing"] if command != ["train"] else []
    assert run([*command, *needed, "--data", "nothing", "-o", output]) == 2
    said = capsys.readouterr().err
    assert FOLDER[output] in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ("/dev/null", "is a device"),
        ("bundle", "is a folder"),
        ("file/a.json", "is a file"),
        ("bundle/a.json", "lies in"),
    ],
)
@pytest.mark.parametrize("command", ["verify", "bench", "gate"])
@pytest.mark.usefixtures("here")
def test_where_no_record_can_be_written_is_said_before_any_work(
    command: str, output: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([command, "nothing", "-o", output]) == 2
    said = capsys.readouterr().err
    assert why in said
    assert said.count("\n") == 1
    assert Path("/dev/null").is_char_device(), "nothing was renamed over it"


@pytest.mark.usefixtures("here")
def test_a_place_that_only_the_system_may_write_to_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root, who may run these tests, may write anywhere
    assert run(["train", "--data", "nothing", "-o", "run"]) == 2
    assert "you may not write to" in capsys.readouterr().err


ABSENT = {"https://a.org/photos.zip": "it is an address", "~/photos": "'~'", "link": "a link that leads nowhere"}


@pytest.mark.parametrize("given", ABSENT)
@pytest.mark.parametrize(
    "command",
    [["data", "check"], ["inspect"], ["verify"], ["bench"], ["gate"], ["preflight"], ["report", "-o", "r.md"]],
    ids=" ".join,
)
@pytest.mark.usefixtures("here")
def test_what_is_not_there_is_told_by_what_it_is(
    command: list[str], given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*command, given]) == 2
    said = capsys.readouterr().err
    assert ABSENT[given] in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("command", ["inspect", "gate", "verify"])
@pytest.mark.usefixtures("here")
def test_one_file_given_as_a_bundle_is_called_a_file(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "file"]) == 2
    assert "no readable .zip of a bundle (it is text); give the folder" in capsys.readouterr().err


def test_a_manifest_saved_by_an_editor_is_read(
    stage: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(stage("torchscript"), tmp_path / "bundle")
    manifest = tmp_path / "bundle" / Manifest.FILE_NAME
    whole = manifest.read_text(encoding="utf-8")
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):
        manifest.write_text(whole, encoding=encoding)
        assert run(["inspect", str(tmp_path / "bundle")]) == 0, capsys.readouterr().err
    manifest.write_bytes(whole.encode("utf-8")[:500])
    assert run(["inspect", str(tmp_path / "bundle")]) == 2


QUITTING = """
import os

os._exit(0)
"""


@pytest.mark.usefixtures("here")
def test_code_that_ends_the_process_does_not_end_the_command_well(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "_exit", lambda status: pytest.fail(f"the command ended with {status}"))
    Path("quitting.py").write_text(QUITTING)
    assert run(["export", "quitting:build", "--input-shape", "1,3,16,16", "-o", "out"]) == 2
    assert "os._exit(0)" in capsys.readouterr().err
    with pytest.raises(pytest.fail.Exception):
        os._exit(0)


def test_a_record_of_another_command_is_called_that(tmp_path: Path) -> None:
    from harness.records import BenchSet
    from harness.report.collect import collect
    from udacisense.base.records import from_json

    with pytest.raises(InputError, match="is a record of 'gate', and no BenchSet"):
        from_json(BenchSet, b'{"kind": "gate", "schema_version": 1}', source="a")
    with pytest.raises(InputError, match=r"another record than BenchSet, or of another release .schema version 1"):
        from_json(BenchSet, b'{"kind": "bench", "schema_version": 1}', source="a")
    write_record(tmp_path / "a.json", {"kind": "verify"})
    with pytest.raises(InputError, match="whose name is none of a record's"):
        collect([tmp_path / "a.json"])


NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, answers=10):
        super().__init__()
        self.fc = nn.Linear(3, answers)
    def forward(self, x):
        return self.fc(x.mean((2, 3)))

class Two(Net):
    def forward(self, x):
        return {"scores": super().forward(x), "features": x}

class Squeezed(Net):
    def forward(self, x):
        return super().forward(x).squeeze()

class InPlace(Net):
    def forward(self, x):
        return self.fc(x.mean((2, 3))).exp_().mul_(2)

class InTraining(Net):
    def forward(self, x):
        return super().forward(x) if not self.training else super().forward(x.flatten(1))

def half(): return Net().half()
def frozen(): return Net().requires_grad_(False)
def lazy(): return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))
def parallel(): return nn.DataParallel(Net())
def compiled(): return nn.Sequential(torch.compile(Net()))
def endless(): m = Net(); nn.init.constant_(m.fc.bias, torch.inf); return m
"""
NOT_TRAINED = {
    "untrained:Net --option answers=7": "answers 7 classes and the data has 10",
    "untrained:Two": "answers dict with scores, features",
    "untrained:Squeezed": r"answers (10,) to 1 image",
    "untrained:InPlace": "A step of training untrained:InPlace fails: RuntimeError: one of the variables needed",
    "untrained:InTraining": "A step of training untrained:InTraining fails",
    "untrained:half": "fc.weight is float16",
    "untrained:frozen": "No weight of the model trains",
    "untrained:lazy": "1.weight has no shape yet",
    "untrained:parallel": "wrapped in DataParallel",
    "untrained:compiled": "is compiled (torch.compile)",
    "untrained:endless": "NaN or infinity",
    "tiny --option num_classes=5": "takes no option 'num_classes'",
    "tiny --option size_px=64": "takes no option 'size_px'",
    "tiny --option dropout=much": "'dropout' of the preset 'tiny' is 'much'; allowed is a number, as 0.1",
    "baseline --option linear_size=0": "is 0; allowed is a whole number from 1 on, as 1024",
    "baseline --option linear_size=yes": "allowed is a whole number from 1 on",
    "tiny --image-size 0": "The image size is 0 px",
}


@pytest.mark.parametrize("is_dry", [True, False], ids=["dry", "run"])
@pytest.mark.parametrize("model", NOT_TRAINED)
def test_what_cannot_be_trained_is_refused_before_the_run_and_in_a_dry_one(
    model: str, is_dry: bool, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "untrained.py").write_text(NETS)
    draw_dataset(here / "photos", train_per_class=3, test_per_class=1, seed=0)
    line = ["train", "--data", "photos", "--model", *model.split(), "-o", "out", *["--dry-run"] * is_dry]
    assert run(line) == 2
    said = capsys.readouterr().err
    assert NOT_TRAINED[model] in said
    assert len(said.strip().splitlines()) == 1
    assert not (here / "out").exists()


def test_inspecting_a_zip_leaves_nothing_behind(
    stage: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_zip(stage("onnx"), tmp_path / "given.zip")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    assert run(["inspect", str(tmp_path / "given.zip")]) == 0
    assert "files is what the manifest says" in capsys.readouterr().out
    assert not list((tmp_path / "temporary").iterdir())


def test_a_folder_of_many_other_classes_is_refused_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_dataset(tmp_path / "shapes", train_per_class=2, test_per_class=1, seed=0)
    for split in ("train", "test"):
        (one, *_) = sorted((tmp_path / "shapes" / split).iterdir())
        for number in range(90):
            (tmp_path / "shapes" / split / f"other {number:02d}").symlink_to(one)
    assert run(["evaluate", "tiny", "--data", str(tmp_path / "shapes")]) == 2
    told = capsys.readouterr().err
    assert "… (100 in all), but tiny was trained for clock, keyboard, lamp" in told
    assert len(told) < 600


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("net.build", "such as net:build"),
        ("net.py", "such as net:build"),
        ("torchvision.models.resnet18", "such as torchvision.models:resnet18"),
        ("nothing", "torchvision/NAME, timm/NAME, or code as package.module:factory."),
        (
            "somewhere/net.py:build",
            "is the path of a file; stand in its folder and name its module and factory, as net:build",
        ),
        (r"C:\models\net.py:build", "as net:build"),
    ],
)
def test_a_model_that_is_named_otherwise_is_told_its_name(
    given: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", given, "--input-shape", "1,3,32,32", "-o", "b"]) == 2
    assert told in capsys.readouterr().err


P2 = "compress --pipeline p2 --baseline mine/artifact --data photos --student"
SEARCH = "search --baseline mine/artifact --data photos"
NOT_STARTED = {
    "techniques --baseline tiny --data photos": "trained for other classes, clock, keyboard",
    "search --baseline tiny --data photos --max-parameters 42K": "trained for other classes, clock, keyboard",
    "techniques --baseline mine/artifact --data photos --batch-size 0": "The batch size is 0",
    "techniques --baseline mine/artifact --data photos --seed 99999999999999999999": "allowed is 0 to 9223372036",
    "search --baseline mine/artifact --data photos --max-parameters 42K --seed -1": "The seed is -1; allowed is 0 to",
    "train --data photos --model tiny --seed 99999999999999999999": "allowed is 0 to",
    "train --data photos --model tiny --epochs 2 -o mine": "was made with epochs = 1 (now 2); resume with the same",
    "train --data photos --model tiny --init nan.safetensors": "hold NaN or infinity, in classifier.1.bias, as after",
    f"{SEARCH} --max-parameters 1": "The least network of the family blocks has ",
    f"{SEARCH} --study nonsense://x": "The study 'nonsense://x' is no URL; write sqlite:///FILE",
    f"{SEARCH} --study sqlite:///nowhere/x.db": "nowhere is no folder); make it first",
    "techniques --baseline mine/artifact --data photos --study photos": "The study photos is a folder; give a file",
    f"{P2} untrained:Net --student-option answers=7": "answers 7 classes and the data has 10",
    f"{P2} untrained:lazy": "has no shape yet",
    f"{P2} untrained:frozen": "No weight of the model",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos and a baseline that was trained on them."""
    folder = tmp_path_factory.mktemp("trained")
    draw_dataset(folder / "photos", train_per_class=3, test_per_class=1, seed=0)
    train_model("tiny", load_dataset(str(folder / "photos")), config=TrainConfig(epochs=1), output_dir=folder / "mine")
    (folder / "untrained.py").write_text(NETS)
    state = load_file(folder / "mine" / "artifact" / "model.safetensors")
    save_file({**state, "classifier.1.bias": torch.full((10,), torch.nan)}, folder / "nan.safetensors")
    return folder


@pytest.mark.parametrize("line", NOT_STARTED)
def test_a_dry_run_refuses_what_the_run_would_refuse(
    line: str, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    assert run([*line.split(), *["-o", "out"] * (" -o " not in line), "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert NOT_STARTED[line] in said
    assert len(said.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("tiny tiny", "tiny has the weights of a member before it"),
        ("tiny baseline --max-points-lost nan", "--max-points-lost is nan; give a number"),
        ("tiny baseline --max-mean-ms nan", "--max-mean-ms is nan; give a number"),
    ],
)
def test_a_cascade_that_cannot_be_is_refused(line: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cascade", *line.split(), "--data", "nothing", "-o", "out"]) == 2
    assert told in capsys.readouterr().err
