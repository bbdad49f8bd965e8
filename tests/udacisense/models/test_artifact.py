import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn

from udacisense.base.records import ModelSpec, StageRecord
from udacisense.data.images import HOUSEHOLD_CLASSES, make_signature
from udacisense.errors import InputError, LoadError
from udacisense.measure.cascade import Cascade
from udacisense.models.artifact import load_artifact, save_artifact
from udacisense.models.build import build_model, preset
from udacisense.models.cascade import load_cascade
from udacisense.zoo.table import resolve_artifact

SPEC = preset("tiny", resolution_px=64)
RECORD = StageRecord(
    stage="baseline",
    config={"epochs": 1},
    duration_s=1.5,
    file_bytes=100,
    parameters=40_882,
    nonzero_parameters=40_882,
    top1_fraction=0.5,
    top5_fraction=0.9,
    per_class={"clock": 0.5},
    latency_ms=1.0,
    n_eval_images=10,
)


def save(folder, *, model=None, spec=SPEC, seed=7, stages=()):
    torch.manual_seed(seed)
    return save_artifact(
        folder,
        name="tiny",
        model=build_model(spec) if model is None else model,
        spec=spec,
        signature=make_signature(HOUSEHOLD_CLASSES),
        baseline=RECORD,
        stages=stages,
        seed=seed,
    )


def edit(folder, **changes):
    path = folder / "artifact.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_what_is_saved_comes_back_whole(tmp_path):
    torch.manual_seed(1)
    model = build_model(SPEC).to(memory_format=torch.channels_last).train()
    model(torch.randn(4, 3, 32, 32))  # moves BatchNorm's running figures, which must come back as well
    made = save(tmp_path / "a", model=model, stages=(RECORD,))
    artifact, again = load_artifact(tmp_path / "a")
    assert artifact == made
    assert artifact.stages == (RECORD,)
    assert not any(module.training for module in again.modules())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(again(images), model.eval()(images))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]


def test_the_same_model_gives_the_same_bytes(tmp_path):
    assert save(tmp_path / "a").sha256 == save(tmp_path / "b").sha256
    assert (tmp_path / "a" / "artifact.json").read_bytes() == (tmp_path / "b" / "artifact.json").read_bytes()
    assert save(tmp_path / "c", seed=8).sha256 != save(tmp_path / "d").sha256


def test_the_commit_of_the_current_repository_is_recorded(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert save(tmp_path / "a").git_commit is None
    git = shutil.which("git")
    if git is None:
        pytest.skip("git is not installed")
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run([git, "init", "-q"], check=True)
    subprocess.run([git, *identity, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    head = subprocess.run([git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert save(tmp_path / "b").git_commit == head


def test_an_artifact_is_replaced(tmp_path):
    save(tmp_path / "a", seed=1)
    made = save(tmp_path / "a", seed=2)
    assert load_artifact(tmp_path / "a")[0] == made


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "photo.jpg").write_text("precious")
    with pytest.raises(InputError, match=r"holds 'photo\.jpg', which is no part of an artifact"):
        save(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["photo.jpg"]
    with pytest.raises(InputError, match="is a file"):
        save(tmp_path / "photo.jpg")


def test_a_quantised_model_is_no_artifact(tmp_path):
    torch.backends.quantized.engine = torch.backends.quantized.supported_engines[-1]
    model = torch.ao.quantization.quantize_dynamic(build_model(SPEC).eval(), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(InputError, match=r"classifier\.1\..* is quantised"):
        save(tmp_path / "a", model=model)
    assert list(tmp_path.iterdir()) == []


def test_tampered_weights_are_refused(tmp_path):
    save(tmp_path / "a")
    weights = tmp_path / "a" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(LoadError, match=r"model\.safetensors are not those that .*artifact\.json records"):
        load_artifact(tmp_path / "a")


def test_weights_of_another_architecture_are_refused(tmp_path):
    save(tmp_path / "a")
    spec = {"architecture": SPEC.architecture, "options": {**SPEC.options, "num_classes": 3}}
    edit(tmp_path / "a", model=spec)
    with pytest.raises(LoadError, match=r"belong to another model: classifier\.1\.weight is \(10, 128\)"):
        load_artifact(tmp_path / "a")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "another release .schema version 2"),
        ({"seed": None}, "seed"),
        ({"surprise": 1}, "surprise"),
        ({"path": "../model.safetensors"}, "must be a file beside it"),
        ({"path": "absent.safetensors"}, "are missing"),
        ({"model": {"architecture": "resnet", "options": {}}}, "no architecture 'resnet'"),
    ],
)
def test_a_wrong_record_is_one_sentence(tmp_path, change, message):
    save(tmp_path / "a")
    edit(tmp_path / "a", **change)
    with pytest.raises(InputError, match=message) as caught:
        load_artifact(tmp_path / "a")
    assert "\n" not in str(caught.value)


def test_missing_parts_are_named(tmp_path):
    with pytest.raises(InputError, match="is no folder"):
        load_artifact(tmp_path / "absent")
    with pytest.raises(InputError, match=r"holds no artifact\.json"):
        load_artifact(tmp_path)
    save(tmp_path / "a")
    (tmp_path / "a" / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model\.safetensors are missing"):
        load_artifact(tmp_path / "a")


@pytest.fixture
def factory(tmp_path, monkeypatch):
    (tmp_path / "their_networks.py").write_text(
        "from pathlib import Path\nfrom torch import nn\n"
        f"Path({str(tmp_path / 'ran')!r}).touch()\n"
        "def make(classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(3072, classes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    spec = ModelSpec(architecture="their_networks:make", options={"classes": 10})
    save(tmp_path / "theirs", model=nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)), spec=spec)
    return tmp_path


@pytest.mark.parametrize("allowed", [None, "other_networks:make"])
def test_foreign_code_is_not_run_unasked(factory, allowed):
    with pytest.raises(InputError, match="allow it by name: --allow-factory their_networks:make"):
        load_artifact(factory / "theirs", allow_factory=allowed)
    assert not (factory / "ran").exists()


def test_foreign_code_is_run_where_it_is_allowed(factory):
    _, model = load_artifact(factory / "theirs", allow_factory="their_networks:make")
    assert (factory / "ran").exists()
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


@pytest.mark.parametrize("fault", ["none", "one", "many", "one name", "first without", "last with"])
def test_a_cascade_whose_members_contradict_each_other_is_refused(tmp_path: Path, fault: str) -> None:
    record = json.loads((resolve_artifact(Path("cascade")) / Cascade.FILE_NAME).read_text())
    first, last = record["members"]
    record["members"] = {
        "none": [],
        "one": [last],
        "many": [{**first, "name": f"tiny-{i}"} for i in range(50)] + [last],
        "one name": [first, {**last, "name": first["name"]}],
        "first without": [{**first, "threshold": None}, last],
        "last with": [first, {**last, "threshold": 0.5}],
    }[fault]
    (tmp_path / Cascade.FILE_NAME).write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"has \d+ members|but the last has a threshold"):
        load_cascade(tmp_path)
