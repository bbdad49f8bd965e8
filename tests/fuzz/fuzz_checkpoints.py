"""Checkpoints that say that they are whole, and are not what the training run needs."""

from __future__ import annotations

import json
import struct

import safetensors.torch
import torch
from fuzz_containers import safetensors as any_safetensors
from fuzz_damage import json_texts
from hypothesis import strategies as st

from udacisense.training.checkpoint import _DIGEST_KEY, _HEADER_KEY, _digest

_KINDS = (torch.float64, torch.int64, torch.uint8, torch.bool, torch.complex64)


@st.composite
def checkpoints(draw: st.DrawFn, data: bytes) -> bytes:
    """A tensor left out, renamed, reshaped or of another type, or another state, under a digest that is right."""
    if draw(st.integers(0, 3)) == 0:
        return draw(any_safetensors(data))
    (length,) = struct.unpack("<Q", data[:8])
    text = json.loads(data[8 : 8 + length])["__metadata__"][_HEADER_KEY]
    tensors = safetensors.torch.load(data)
    if draw(st.integers(0, 2)) == 0:
        text = draw(json_texts(text.encode())).decode(errors="replace")
    else:
        name = draw(st.sampled_from(sorted(tensors)))
        _edit(draw, tensors, name)
    digest = draw(st.sampled_from((_digest(text, dict(sorted(tensors.items()))), "")))
    return safetensors.torch.save(tensors, {_HEADER_KEY: text, _DIGEST_KEY: digest})


def _edit(draw: st.DrawFn, tensors: dict[str, torch.Tensor], name: str) -> None:
    old = tensors.pop(name)
    way = draw(st.sampled_from(("out", "name", "group", "shape", "type", "nan")))
    if way == "name":
        tensors[draw(st.sampled_from(("x", "model.x", "optimizer.x", "optimizer.x/step", "rng.x", "best.", ".")))] = old
    elif way == "group":
        tensors[f"best.{name}"] = old
    elif way == "shape":
        tensors[name] = old.reshape(-1)[: max(0, old.numel() - 1)].clone()
    elif way == "type":
        tensors[name] = old.to(draw(st.sampled_from(_KINDS)))
    elif way == "nan":
        tensors[name] = torch.full_like(old, float("nan")) if old.is_floating_point() else torch.zeros_like(old)
