"""Tensors on disk."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from udacisense.base.tensors import save_tensors


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
