"""Tensors and TorchScript on disk."""

from __future__ import annotations

import errno
import io
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch.jit.mobile import _load_for_lite_interpreter
from training_cases import SIZE_PX, mobilenet_spec, tiny_spec, trained_like

from udacisense.base.tensors import compact, save_tensors, supported_engines, torchscript_bytes
from udacisense.stages.graph import trace_and_freeze
from udacisense.stages.quantize import dynamic_int8

IMAGES = torch.randn(2, 3, SIZE_PX, SIZE_PX, generator=torch.Generator().manual_seed(3))


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    save_tensors(tmp_path / "t.safetensors", {"a": torch.arange(6.0).reshape(2, 3)}, metadata={"k": "v"})
    with safe_open(tmp_path / "t.safetensors", framework="pt") as stream:
        assert stream.metadata() == {"k": "v"}
        assert torch.equal(stream.get_tensor("a"), torch.arange(6.0).reshape(2, 3))
    assert [p.name for p in tmp_path.iterdir()] == ["t.safetensors"]


def test_a_full_disk_is_an_os_error() -> None:
    full = Path("/dev/full")  # answers every write as a full disk does
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        save_tensors(full, {"a": torch.zeros(100_000)})
    assert caught.value.errno == errno.ENOSPC


def frozen(kind: str) -> torch.jit.ScriptModule:
    model = trained_like(tiny_spec() if kind == "fp32" else mobilenet_spec())
    return trace_and_freeze(model if kind == "fp32" else dynamic_int8(model, engine=supported_engines()[0]), IMAGES)


@pytest.mark.parametrize("kind", ["fp32", "int8"])
def test_a_packed_file_answers_bit_by_bit_as_its_module_in_both_interpreters(kind: str) -> None:
    module = frozen(kind)
    lite = compact(module._save_to_buffer_for_lite_interpreter())
    with torch.inference_mode():
        expected = module(IMAGES)
        assert torch.equal(torch.jit.load(io.BytesIO(torchscript_bytes(module)))(IMAGES), expected)
        assert torch.equal(_load_for_lite_interpreter(io.BytesIO(lite))(IMAGES), expected)


def test_a_packed_file_is_smaller_and_holds_every_record_but_those_for_debugging() -> None:
    stream = io.BytesIO()
    torch.jit.save(frozen("fp32"), stream)
    packed = compact(stream.getvalue())
    assert len(packed) < 0.97 * len(stream.getvalue())
    with zipfile.ZipFile(stream) as given, zipfile.ZipFile(io.BytesIO(packed)) as made:
        kept = {name for name in given.namelist() if not name.endswith(".debug_pkl")}
        assert set(made.namelist()) == kept
        assert all(made.read(name) == given.read(name) for name in kept)


def test_large_records_stay_as_they_are_and_what_was_added_comes_back() -> None:
    module, note = frozen("fp32"), {"note.txt": "x" * 20_000}
    packed = torchscript_bytes(module, extra=note)
    with zipfile.ZipFile(io.BytesIO(packed)) as made:
        stored = {entry.file_size >= 8192 for entry in made.infolist() if entry.compress_type == zipfile.ZIP_STORED}
    assert stored == {True}
    found = {"note.txt": ""}
    torch.jit.load(io.BytesIO(packed), _extra_files=found)
    assert found["note.txt"] in (note["note.txt"], note["note.txt"].encode())  # text or bytes, by PyTorch's version


def test_bytes_depend_on_the_module_alone() -> None:
    module = frozen("int8")
    assert torchscript_bytes(module) == torchscript_bytes(module)
