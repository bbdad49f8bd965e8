"""The eager reference: what a variant was made from, rebuilt from the bundle in the variant's own precision."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.runners.torchscript import TorchSession, configure

if TYPE_CHECKING:
    from exporters.manifest import Variant

# Option of the reference's variant: the one ``package.module:factory`` that may be imported to build the model.
ALLOW_FACTORY = "allow_factory"


def unavailable() -> str | None:
    """PyTorch is always here."""
    return None


def load(path: Path, variant: Variant, *, engine: str | None, threads: int) -> TorchSession:
    """Rebuild a variant's eager source; ``path`` is the bundle's folder."""
    from exporters.bundle import eager_source, open_bundle

    configure(engine, threads)
    allowed = variant.options.get(ALLOW_FACTORY)
    model = eager_source(open_bundle(path), variant, allow_factory=None if allowed is None else str(allowed))
    return TorchSession(model, variant, engine)
