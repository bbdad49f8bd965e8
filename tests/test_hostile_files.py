"""Files made to do harm: none of them runs code, and none reads or writes outside its own folder."""

from __future__ import annotations

import contextlib
import json
import pickle
import stat
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from training_cases import figures

from exporters.bundle.open import check_bundle, open_bundle
from exporters.preflight.onnx_facts import load_model
from udacisense.base.files import sha256_file
from udacisense.base.photos import read_square
from udacisense.base.records import Artifact
from udacisense.data.images import make_signature
from udacisense.errors import InputError, LoadError
from udacisense.models.artifact import load_artifact, save_artifact
from udacisense.models.build import build_model, preset
from udacisense.models.weights import initialise, load_state
from udacisense.training.checkpoint import CHECKPOINT_NAME, load_checkpoint

SPEC = preset("tiny", num_classes=3, resolution_px=32)


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return (Path.write_text, (Path(self.target), "boom"))  # type: ignore[return-value]


@pytest.fixture
def crater(tmp_path: Path) -> Path:
    """What a bomb writes; proved live first, so that a dud cannot pass the tests below."""
    path = tmp_path / "crater.txt"
    pickle.loads(pickle.dumps(Bomb(path)))  # noqa: S301 - our own, to show that it goes off
    assert path.exists()
    path.unlink()
    return path


@pytest.fixture(params=["pickle", "torch.save"])
def bomb(request: pytest.FixtureRequest, tmp_path: Path, crater: Path) -> Path:
    path = tmp_path / "bomb.safetensors"
    if request.param == "pickle":
        path.write_bytes(pickle.dumps(Bomb(crater)))
    else:
        torch.save({"weight": Bomb(crater)}, path)
    return path


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    folder = tmp_path / "artifact"
    signature = make_signature(("a", "b", "c"))
    save_artifact(
        folder, name="m", model=build_model(SPEC), spec=SPEC, signature=signature, baseline=figures(), stages=(), seed=0
    )
    return folder


def change(path: Path, /, **values: object) -> None:
    record = json.loads(path.read_text())
    record.update(values)
    path.write_text(json.dumps(record))


def test_a_pickle_is_no_checkpoint(bomb: Path, tmp_path: Path, crater: Path) -> None:
    (tmp_path / "training").mkdir()
    bomb.rename(tmp_path / "training" / CHECKPOINT_NAME)
    with pytest.raises(LoadError, match="no readable checkpoint"):
        load_checkpoint(tmp_path / "training", identity={})
    assert not crater.exists()


def test_a_pickle_is_no_weights(bomb: Path, artifact: Path, crater: Path) -> None:
    model = build_model(SPEC)
    with pytest.raises(LoadError, match="safetensors"):
        initialise(model, str(bomb), SPEC)
    with pytest.raises(LoadError, match="safetensors"):
        load_state(model, bomb)
    bomb.replace(artifact / "model.safetensors")
    change(artifact / Artifact.FILE_NAME, sha256=sha256_file(artifact / "model.safetensors"))
    with pytest.raises(LoadError, match="safetensors"):
        load_artifact(artifact)
    assert not crater.exists()


def test_a_record_does_not_run_the_code_that_it_names(
    artifact: Path, tmp_path: Path, crater: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "harmful_module.py").write_text(f"open({str(crater)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    change(artifact / Artifact.FILE_NAME, model={"architecture": "harmful_module:make", "options": {}})
    with pytest.raises(InputError, match="not run unasked"):
        load_artifact(artifact)
    with pytest.raises(InputError, match="not run unasked"):
        load_artifact(artifact, allow_factory="another:make")
    assert not crater.exists()
    assert "harmful_module" not in sys.modules


@pytest.mark.parametrize("path", ["../outside.safetensors", "/etc/passwd", "reference/../../x"])
def test_an_artifact_names_no_file_outside_its_folder(artifact: Path, path: str) -> None:
    change(artifact / Artifact.FILE_NAME, path=path)
    with pytest.raises(InputError, match="must be a file beside it"):
        load_artifact(artifact)


def write_onnx(folder: Path, location: str) -> Path:
    """Write a model whose only weight is said to lie in another file."""
    import onnx
    from onnx import TensorProto, helper

    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": "0", "length": "16"}.items():
        weight.external_data.add(key=key, value=value)
    graph = helper.make_graph(
        [helper.make_node("Add", ["input", "w"], ["logits"])],
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [4])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    folder.mkdir(exist_ok=True)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    assert onnx.load(folder / "model.onnx", load_external_data=False).graph.initializer[0].data_location == 1
    return folder / "model.onnx"


@pytest.mark.parametrize("where", ["../secret.bin", "{tmp}/secret.bin", "beside.bin"])
def test_an_onnx_file_reads_no_other_file(tmp_path: Path, where: str) -> None:
    (tmp_path / "secret.bin").write_bytes(b"\x00\x00\x80?" * 4)
    path = write_onnx(tmp_path / "bundle", where.format(tmp=tmp_path))
    (tmp_path / "bundle" / "beside.bin").write_bytes(b"\x00\x00\x80?" * 4)
    with pytest.raises(LoadError, match="in other files"):
        load_model(path)


def zip_with(path: Path, name: str, *, mode: int = stat.S_IFREG | 0o644, content: bytes = b"x") -> Path:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = mode << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(entry, content)
    return path


@pytest.mark.parametrize("name", ["../escaped", "/escaped", "a/../../escaped", "a\\..\\..\\escaped", "C:/escaped"])
def test_a_zip_writes_nothing_outside_its_folder(tmp_path: Path, name: str) -> None:
    path = zip_with(tmp_path / "bad.zip", name)
    with pytest.raises(InputError, match="leaves the bundle"):
        open_bundle(path, unpack_to=tmp_path / "in" / "bundle")
    with pytest.raises(InputError, match="leaves the bundle"):
        check_bundle(path)
    assert [p for p in tmp_path.rglob("*escaped*")] == []  # noqa: C416 - the list is what a failure shows


def test_a_zip_makes_no_links(tmp_path: Path) -> None:
    path = zip_with(tmp_path / "bad.zip", "link", mode=stat.S_IFLNK | 0o777, content=b"/etc")
    with pytest.raises(InputError, match="link"):
        open_bundle(path, unpack_to=tmp_path / "in" / "bundle")
    assert not (tmp_path / "in" / "bundle").exists()


def test_a_photo_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow hands PostScript to Ghostscript, whatever the file is called."""
    started: list[object] = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *args, **_: started.append(args))
    path = tmp_path / "photo.png"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n0 0 8 8 rectfill\nshowpage\n")
    with Image.open(path) as photo, contextlib.suppress(Exception):  # of the picture that was not drawn
        photo.load()
    assert started
    started.clear()
    with pytest.raises(InputError, match="cannot be read: it is text"):
        read_square(path, 8)
    assert not started
