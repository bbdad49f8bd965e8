"""onnxruntime on its XNNPACK provider, which its Android library has and its desktop wheels mostly lack."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.runners import onnxruntime as cpu

if TYPE_CHECKING:
    from exporters.manifest import Variant

XNNPACK = "XnnpackExecutionProvider"


def unavailable() -> str | None:
    """Say that this onnxruntime has no XNNPACK where it has none."""
    missing = cpu.unavailable()
    if missing is not None:
        return missing
    import onnxruntime as ort

    if XNNPACK in ort.get_available_providers():
        return None
    return "this onnxruntime is built without XNNPACK (its Android library has it)"


def load(path: Path, variant: Variant, *, engine: str | None, threads: int) -> cpu.OrtSession:
    """Load on XNNPACK, which has a thread pool of its own, with the CPU provider behind it for what it lacks."""
    providers = [(XNNPACK, {"intra_op_num_threads": str(threads)}), cpu.CPU]
    return cpu.open_session(path, variant, providers=providers, threads=threads, engine=engine)
