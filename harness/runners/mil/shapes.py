"""MIL operators in torch that move values and compute none, and what all operators share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.runners.table import CannotJudgeError

Value = Any  # Tensor | str | bool | int | float | a list of them: what a MIL argument may be
Arguments = Mapping[str, Value]
Operator = Callable[[Arguments], Any]


class UnknownOperatorError(CannotJudgeError):
    """The program has operators, or modes of them, that the evaluator does not know."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(f"the MIL evaluator does not know: {', '.join(names)}")


def ints(value: Value) -> list[int]:
    """Return a constant list of integers."""
    return [int(v) for v in value.tolist()] if isinstance(value, Tensor) else [int(v) for v in value]


def tensor(value: Value) -> Tensor:
    """Return a value as a tensor."""
    return value if isinstance(value, Tensor) else torch.tensor(value)


def reshape(a: Arguments) -> Value:
    """Reshape; 0 keeps an axis."""
    x, shape = a["x"], ints(a["shape"])
    return x.reshape([x.shape[i] if n == 0 else n for i, n in enumerate(shape)])


def flatten(a: Arguments) -> Value:
    """Flatten to two axes."""
    x, axis = a["x"], int(a.get("axis", 1))
    lead = 1
    for n in x.shape[:axis]:
        lead *= n
    return x.reshape(lead, -1)


def squeeze(a: Arguments) -> Value:
    """Drop axes of length one."""
    x = a["x"]
    if a.get("axes") is None:
        return x.squeeze()
    for axis in sorted((int(i) % x.ndim for i in ints(a["axes"])), reverse=True):
        x = x.squeeze(axis)
    return x


def expand_dims(a: Arguments) -> Value:
    """Insert axes of length one."""
    x = tensor(a["x"])
    rank = x.ndim + len(ints(a["axes"]))
    for axis in sorted(i % rank for i in ints(a["axes"])):
        x = x.unsqueeze(axis)
    return x


def concat(a: Arguments) -> Value:
    """Join along an axis; interleaved, the first slice of each, then the second of each (coremltools, ``concat``)."""
    values = [tensor(v) for v in a["values"]]
    axis = int(a["axis"]) % max(values[0].ndim, 1)
    if not a.get("interleave", False):
        return torch.cat(values, dim=axis)
    return torch.stack(values, dim=axis + 1).flatten(axis, axis + 1)


def split(a: Arguments) -> Value:
    """Split along an axis."""
    x, axis = a["x"], int(a["axis"])
    if a.get("split_sizes") is not None:
        return torch.split(x, ints(a["split_sizes"]), dim=axis)
    return torch.split(x, x.shape[axis] // int(a["num_splits"]), dim=axis)


def slice_by_index(a: Arguments) -> Value:
    """Take a strided slice."""
    x = a["x"]
    begin, end = ints(a["begin"]), ints(a["end"])
    stride = ints(a.get("stride", [1] * x.ndim))
    masks = {k: [bool(v) for v in a.get(k, [False] * x.ndim)] for k in ("begin_mask", "end_mask", "squeeze_mask")}
    if any(s < 1 for s in stride):
        raise UnknownOperatorError(["slice_by_index with a negative stride"])
    index: list[int | slice] = []
    for i in range(x.ndim):
        if masks["squeeze_mask"][i]:
            index.append(begin[i])
        else:
            low = None if masks["begin_mask"][i] else begin[i]
            high = None if masks["end_mask"][i] else end[i]
            index.append(slice(low, high, stride[i]))
    return x[tuple(index)]


def slice_by_size(a: Arguments) -> Value:
    """Take a slice by its sizes; -1 takes the rest."""
    x = a["x"]
    for axis, (low, size) in enumerate(zip(ints(a["begin"]), ints(a["size"]), strict=True)):
        x = x.narrow(axis, low, x.shape[axis] - low if size == -1 else size)
    return x


def gather(a: Arguments) -> Value:
    """Take slices along an axis, for each of the first ``batch_dims`` axes on its own (coremltools, ``gather``)."""
    x, batch_dims = tensor(a["x"]), int(a.get("batch_dims", 0))
    axis = int(a.get("axis", 0)) % x.ndim
    indices = _positions(a, x.shape[axis])
    if batch_dims:
        return _batched(gather, a, x, indices, batch_dims=batch_dims, axis=axis - 1)
    taken = x.index_select(axis, indices.flatten())
    return taken.reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


def gather_along_axis(a: Arguments) -> Value:
    """Take single values along an axis; the answer has the shape of ``indices``."""
    x = tensor(a["x"])
    axis = int(a.get("axis", 0)) % x.ndim
    return torch.take_along_dim(x, _positions(a, x.shape[axis]), dim=axis)


def gather_nd(a: Arguments) -> Value:
    """Take slices at coordinates, which are the last axis of ``indices``."""
    x, indices, batch_dims = tensor(a["x"]), tensor(a["indices"]).long(), int(a.get("batch_dims", 0))
    if (indices < 0).any():  # torch would count from the end; coremltools leaves open what it means
        raise UnknownOperatorError(["gather_nd with a negative index"])
    if batch_dims:
        return _batched(gather_nd, a, x, indices, batch_dims=batch_dims)
    return x[tuple(indices.movedim(-1, 0))]


def scatter(gathered: Operator) -> Operator:
    """Return the operator that puts ``updates`` where a gather takes from; no place twice where the order would count.

    The modes are coremltools' (``scatter``, ``scatter_along_axis``, ``scatter_nd``): update, add, sub, mul, div,
    max and min.
    """

    def scattered(a: Arguments) -> Value:
        data, updates, mode = tensor(a["data"]), tensor(a["updates"]).flatten(), str(a.get("mode", "add"))
        places = tensor(gathered({**a, "x": torch.arange(data.numel()).reshape(data.shape)})).flatten()
        if mode in ("update", "div") and len(set(places.tolist())) < len(places):
            raise UnknownOperatorError([f"a scatter by {mode} to one place twice"])
        flat = data.flatten()
        if mode in ("update", "div"):
            flat = flat.index_copy(0, places, flat[places] / updates if mode == "div" else updates)
        elif mode in ("add", "sub"):
            flat = flat.index_add(0, places, updates, alpha=1 if mode == "add" else -1)
        else:
            flat = flat.scatter_reduce(0, places, updates, {"mul": "prod", "max": "amax", "min": "amin"}[mode])
        return flat.reshape(data.shape)

    return scattered


def _batched(
    operator: Operator, a: Arguments, x: Tensor, indices: Tensor, *, batch_dims: int, **changed: Value
) -> Tensor:
    """Apply an operator to each pair along the first axis."""
    rest = {**a, **changed, "batch_dims": batch_dims - 1}
    return torch.stack([operator({**rest, "x": v, "indices": i}) for v, i in zip(x, indices, strict=True)])


def _positions(a: Arguments, size: int) -> Tensor:
    """Return indices as 0 … size - 1.

    Negative ones count from the end up to iOS 16; from iOS 17 on, whose gathers have ``validate_indices``, what they
    give is undefined.

    Raises:
        UnknownOperatorError: what an index gives is undefined.
    """
    indices = tensor(a["indices"]).long()
    low = 0 if "validate_indices" in a else -size
    if ((indices < low) | (indices >= size)).any():
        raise UnknownOperatorError(["a gather with an index out of range"])
    return torch.where(indices < 0, indices + size, indices)


def pad(a: Arguments) -> Value:
    """Pad axes."""
    pads = ints(a["pad"])
    torch_pads = [p for i in reversed(range(len(pads) // 2)) for p in pads[2 * i : 2 * i + 2]]
    mode = str(a.get("mode", "constant"))
    if mode == "constant":
        return F.pad(a["x"], torch_pads, value=float(a.get("constant_val", 0)))
    while torch_pads[-2:] == [0, 0]:  # torch takes these modes on the last axes only
        torch_pads = torch_pads[:-2]
    if mode not in {"reflect", "replicate"}:
        raise UnknownOperatorError([f"pad mode '{mode}'"])
    return F.pad(a["x"], torch_pads, mode=mode)
