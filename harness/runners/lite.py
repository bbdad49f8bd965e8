"""Lite interpreter ``.ptl``: what PyTorch's mobile library loads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.runners import first_line
from harness.runners.torchscript import TorchSession, configure
from udacisense.errors import LoadError

if TYPE_CHECKING:
    from exporters.manifest import Variant


def unavailable() -> str | None:
    """PyTorch's wheels carry the lite interpreter."""
    return None


def load(path: Path, variant: Variant, *, engine: str | None, threads: int) -> TorchSession:
    """Load a ``.ptl`` in the lite interpreter."""
    from torch.jit.mobile import _load_for_lite_interpreter

    configure(engine, threads)
    try:
        module = _load_for_lite_interpreter(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except Exception as exc:
        raise LoadError(f"{path.name} would not load in the lite interpreter: {first_line(exc)}.") from exc
    return TorchSession(module, variant, engine)
