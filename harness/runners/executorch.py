"""ExecuTorch: ``.pte`` through its Python bindings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from harness.runners.torch import TorchSession, configure
from udacisense.errors import LoadError, cause

if TYPE_CHECKING:
    from exporters.bundle.manifest import Loadable


def load(
    runner: str,  # noqa: ARG001 - the seam
    path: Path,
    variant: Loadable,
    *,
    engine: str | None,
    threads: int,
) -> TorchSession:
    """Load a ``.pte`` and its ``forward``."""
    from executorch.runtime import Runtime  # type: ignore[import-not-found, unused-ignore]

    configure(engine, threads)
    try:
        method = Runtime.get().load_program(path).load_method("forward")
    except Exception as exc:
        raise LoadError(f"{path.name} would not load in ExecuTorch: {cause(exc)}.") from exc
    return TorchSession(_first_output(method), variant, engine)


def _first_output(method: Any) -> Callable[[Tensor], object]:
    def call(inputs: Tensor) -> object:
        outputs = method.execute([inputs])
        # The runtime lends its own memory: the next call would overwrite it.
        return outputs[0].clone() if isinstance(outputs[0], Tensor) else outputs[0]

    return call
