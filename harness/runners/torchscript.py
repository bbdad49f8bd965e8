"""TorchScript ``.pt`` in PyTorch's full interpreter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from harness.runners import FloatArray, checked_input, checked_output, first_line
from udacisense.errors import InferenceError, InputError, LoadError
from udacisense.types import Scalar

if TYPE_CHECKING:
    from exporters.manifest import Variant


def unavailable() -> str | None:
    """PyTorch is always here."""
    return None


def configure(engine: str | None, threads: int) -> None:
    """Set the quantised engine and the threads of this process, before its first operation.

    Raises:
        InputError: this PyTorch was built without the engine.
    """
    torch.set_num_threads(threads)
    if engine is None:
        return
    supported = [name for name in torch.backends.quantized.supported_engines if name != "none"]
    if engine not in supported:
        raise InputError(f"This PyTorch has no quantised engine '{engine}'; it has {', '.join(supported)}.")
    torch.backends.quantized.engine = engine


def actual(engine: str | None) -> dict[str, Scalar]:
    """Return the engine (None where none was asked for) and the threads that PyTorch really uses."""
    return {
        "engine": None if engine is None else str(torch.backends.quantized.engine),
        "threads": torch.get_num_threads(),
    }


class TorchSession:
    """Anything that maps a tensor to a tensor.

    The model's mode stays as its file has it: a phone calls ``forward`` and nothing else, so a dropout left in
    training mode must show here.
    """

    def __init__(self, call: Callable[[Tensor], object], variant: Variant, engine: str | None) -> None:
        self._call = call
        self._variant = variant
        self.actual: Mapping[str, Scalar] = actual(engine)

    def run(self, batch: FloatArray) -> FloatArray:
        """Answer a batch."""
        inputs = torch.from_numpy(checked_input(batch, self._variant))
        try:
            with torch.inference_mode():
                output = self._call(inputs)
        except Exception as exc:
            raise InferenceError(f"{self._variant.id} failed while it ran: {first_line(exc)}.") from exc
        value = output.detach().numpy() if isinstance(output, Tensor) else output
        return checked_output(value, batch, self._variant)


def load(path: Path, variant: Variant, *, engine: str | None, threads: int) -> TorchSession:
    """Load a ``.pt`` on the CPU."""
    configure(engine, threads)
    try:
        module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except Exception as exc:
        raise LoadError(f"{path.name} would not load as TorchScript: {first_line(exc)}.") from exc
    return TorchSession(module, variant, engine)
