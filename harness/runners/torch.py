"""PyTorch's own runtimes: TorchScript (on the CPU or a GPU of this host), the lite interpreter, the eager source.

No phone has a desk's GPU: its columns stand beside the CPU's, for those who ask what their desk would take. A call
there counts what a caller waits for: the images on their way to the GPU, the network, the logits on their way back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from harness.runners.table import CannotJudgeError, FloatArray, checked_input, checked_output
from udacisense.base.records import Scalar
from udacisense.base.tensors import supported_engines
from udacisense.errors import InferenceError, InputError, LoadError, cause

if TYPE_CHECKING:
    from exporters.bundle.manifest import Loadable

# Option of the reference's variant: the one ``package.module:factory`` that may be imported to build the model.
ALLOW_FACTORY = "allow_factory"


def unavailable(runner: str) -> str | None:
    """Say which GPU is missing; PyTorch itself is always here, and its wheels carry the lite interpreter."""
    if runner == "torchscript-cuda" and not torch.cuda.is_available():
        return "this host has no CUDA device that PyTorch can use"
    if runner == "torchscript-mps" and not torch.backends.mps.is_available():
        return "needs a Mac with an Apple GPU"
    return None


def gpu_name() -> str | None:
    """Return the name of the GPU that PyTorch can use here, or None where it has none."""
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return "Apple GPU" if torch.backends.mps.is_available() else None


def configure(engine: str | None, threads: int) -> None:
    """Set the quantised engine and the threads of this process, before its first operation.

    Raises:
        InputError: this PyTorch was built without the engine.
    """
    torch.set_num_threads(threads)
    if engine is None:
        return
    supported = supported_engines()
    if engine not in supported:
        raise InputError(f"This PyTorch has no quantised engine '{engine}'; it has {', '.join(supported)}.")
    torch.backends.quantized.engine = engine


class TorchSession:
    """Anything that maps a tensor to a tensor.

    The model's mode stays as its file has it: a phone calls ``forward`` and nothing else, so a dropout left in
    training mode must show here.
    """

    def __init__(self, call: Callable[[Tensor], object], variant: Loadable, engine: str | None) -> None:
        self._call = call
        self._variant = variant
        self.actual: Mapping[str, Scalar] = {
            "engine": None if engine is None else str(torch.backends.quantized.engine),
            "threads": torch.get_num_threads(),
        }

    def run(self, batch: FloatArray) -> FloatArray:
        """Answer a batch."""
        inputs = torch.from_numpy(checked_input(batch, self._variant))
        try:
            with torch.inference_mode():
                output = self._call(inputs)
        except Exception as exc:
            raise InferenceError(f"{self._variant.id} failed while it ran: {cause(exc)}.") from exc
        value = output.detach().numpy() if isinstance(output, Tensor) else output
        return checked_output(value, batch, self._variant)


def load(runner: str, path: Path, variant: Loadable, *, engine: str | None, threads: int) -> TorchSession:
    """Load what a row of the table opens; for ``eager``, ``path`` is the bundle's folder.

    Raises:
        CannotJudgeError: the variant is not float32, and the runner is a GPU's.
        LoadError: the file would not load.
    """
    named = runner.partition("-")[2]
    device = named or "cpu"
    if device != "cpu":
        if variant.precision != "fp32":
            raise CannotJudgeError(f"PyTorch has no {variant.precision} kernels for {device}")
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
    configure(engine, threads)
    if runner == "eager":
        return TorchSession(_rebuilt(path, variant), variant, engine)
    try:
        module = _open(runner, path, device)
    except Exception as exc:
        where = {"lite": " in the lite interpreter", "torchscript": " as TorchScript"}.get(runner, f" on {device}")
        raise LoadError(f"{path.name} would not load{where}: {cause(exc)}.") from exc
    if not named:
        return TorchSession(module, variant, engine)
    session = TorchSession(lambda images: module(images.to(device)).cpu(), variant, engine)
    session.actual = {**session.actual, "device": device}
    return session


def _open(runner: str, path: Path, device: str) -> Callable[[Tensor], Tensor]:
    if runner == "lite":
        from torch.jit.mobile import _load_for_lite_interpreter

        return _load_for_lite_interpreter(str(path), map_location=device)  # type: ignore[no-any-return, no-untyped-call]
    return torch.jit.load(str(path), map_location=device)  # type: ignore[no-any-return, no-untyped-call]


def _rebuilt(root: Path, variant: Loadable) -> torch.nn.Module:
    """Rebuild a variant's eager source from its bundle, in the variant's own precision."""
    from exporters.bundle.open import open_bundle
    from exporters.bundle.reference import eager_source

    allowed = variant.options.get(ALLOW_FACTORY)
    return eager_source(open_bundle(root), variant, allow_factory=None if allowed is None else str(allowed))
