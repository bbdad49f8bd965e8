"""State dictionaries in PyTorch's own files, ``.pth``: read in a process of its own, tensors alone."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from udacisense.base.child import READ_S, run_child
from udacisense.errors import InputError, LoadError

_STATE, _WRAPPER = "state.safetensors", "wrapper.txt"
# What training scripts call the weights, the averaged ones first: these are what people ship.
_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema")
_NAMES = (
    *_AVERAGED,
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params", "module"),
)
_DEEPEST = 3


def read_pickled(path: Path) -> tuple[dict[str, Tensor], str]:
    """Return the state dictionary in a file that ``torch.save`` wrote, and where in the file it was: ``''`` or a key.

    Code that the file asks for is not run: whatever is more than tensors, numbers and texts is refused.

    Raises:
        LoadError: the file holds something else.
    """
    from safetensors.torch import load

    with tempfile.TemporaryDirectory(prefix="udacisense-read-") as name:
        folder = Path(name)
        failure = run_child(__name__, folder, str(path.absolute()), timeout_s=READ_S)
        if failure is not None:
            raise LoadError(
                f"{path} holds no plain state dictionary ({failure}); save the weights alone, by "
                "torch.save(model.state_dict(), ...) or as safetensors."
            )
        return load((folder / _STATE).read_bytes()), (folder / _WRAPPER).read_text()


def main(folder: Path, path: str) -> None:
    """Read the file ``path``, and leave its state dictionary in ``folder``; this is the child."""
    import torch

    from udacisense.base.tensors import save_tensors

    with torch.serialization.safe_globals([argparse.Namespace, *_numpys()]):  # timm keeps a run's options beside them
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as exc:
            raise InputError(_why(exc)) from exc
    found, wrapper = _find_state(content, depth=0)
    if found is None:
        keys = ", ".join(map(str, list(content)[:8])) if isinstance(content, Mapping) else type(content).__name__
        raise InputError(f"it has no tensors by name; it is {keys or 'empty'}")
    for key, value in found.items():
        odd = "has no values (meta)" if value.is_meta else "is sparse" if value.layout is not torch.strided else None
        if value.is_quantized or odd:
            raise InputError(f"its {key} {odd or 'is quantised already'}")
    # Tensors that share memory or are views are written one by one.
    save_tensors(folder / _STATE, {key: value.detach().contiguous().clone() for key, value in found.items()})
    (folder / _WRAPPER).write_text(wrapper)


def _numpys() -> list[Any]:
    """Return what a NumPy number or array is made of in a pickle: people keep a best accuracy beside the weights."""
    import numpy as np
    from numpy._core.multiarray import _reconstruct, scalar

    kinds = {type(np.dtype(code)) for code in "?bBhHiIlLqQefd"}
    return [np.ndarray, np.dtype, *kinds, _reconstruct, scalar]


def _why(exc: Exception) -> str:
    text = " ".join(str(exc).split())
    if "TorchScript" in text:
        return "it is TorchScript; give the state dictionary of the eager model"
    _, asked, name = text.partition("Unsupported global: GLOBAL ")
    if asked:
        return f"it holds {name.split()[0]}, which is code, beside or instead of tensors"
    return f"{type(exc).__name__}: {text[:200]}"


def _find_state(content: Any, *, depth: int) -> tuple[dict[str, Tensor] | None, str]:
    """Return the first state dictionary of a nest of dictionaries, known names first, and the keys that led to it."""
    if not isinstance(content, Mapping) or depth > _DEEPEST:
        return None, ""
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    others = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Mapping)}
    if tensors and not any(key in _NAMES for key in others):
        return tensors, ""
    order = [key for key in _NAMES if key in others] + [key for key in others if key not in _NAMES]
    for key in order:
        found, deeper = _find_state(others[key], depth=depth + 1)
        if found is not None:
            return found, f"{key}.{deeper}".rstrip(".")
    return None, ""
