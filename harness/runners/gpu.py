"""TorchScript on a GPU of this host: a column beside the CPU's, for those who ask what their desk would take.

No phone has these. A call counts what a caller waits for: the images on their way there, the network, the logits on
their way back. PyTorch's quantised kernels run on the CPU alone, so that float32 files are all that is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from harness.runners import CannotJudgeError, first_line
from harness.runners.torchscript import TorchSession, configure
from udacisense.errors import LoadError

if TYPE_CHECKING:
    from exporters.manifest import Variant


def gpu_name() -> str | None:
    """Return the name of the GPU that PyTorch can use here, or None where it has none."""
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return "Apple GPU" if torch.backends.mps.is_available() else None


def load_on(device: str, path: Path, variant: Variant, *, engine: str | None, threads: int) -> TorchSession:
    """Load a ``.pt`` and all its constants on a device of PyTorch; float32 is computed in float32 there, as on the CPU.

    Raises:
        CannotJudgeError: the variant is not float32.
        LoadError: the file would not load.
    """
    if variant.precision != "fp32":
        raise CannotJudgeError(f"PyTorch has no {variant.precision} kernels for {device}")
    configure(engine, threads)
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        module = torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]
    except Exception as exc:
        raise LoadError(f"{path.name} would not load on {device}: {first_line(exc)}.") from exc
    session = TorchSession(lambda images: module(images.to(device)).cpu(), variant, engine)
    session.actual = {**session.actual, "device": device}
    return session
