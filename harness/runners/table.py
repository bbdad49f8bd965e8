"""The runners: one row a runtime. A runner loads a variant and answers batches; it never times itself.

To add one, write ``harness/runners/<runtime>.py`` with ``unavailable(runner)`` and ``load(runner, path, variant,
engine, threads)``, and add a row to :data:`RUNNERS`; both get the row's name. The contract tests iterate the table.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from exporters.toolchain.setup import unusable
from udacisense.base.records import Scalar
from udacisense.errors import InferenceError

if TYPE_CHECKING:
    from exporters.bundle.manifest import Loadable

FloatArray = NDArray[np.float32]


class CannotJudgeError(Exception):
    """A runner cannot answer for this file, which is no fault of the file: the cell is skipped, with this reason."""


class Session(Protocol):
    """A loaded model, ready to answer."""

    @property
    def actual(self) -> Mapping[str, Scalar]:
        """What the runtime really got: ``engine``, ``threads`` and, where it applies, ``provider``."""

    def run(self, batch: FloatArray) -> FloatArray:
        """Answer a batch: float32 (n, 3, H, W) in, float32 (n, C) out.

        Raises:
            InferenceError: the runtime failed, or what it gave has another shape or dtype.
        """


@dataclass(frozen=True, kw_only=True)
class Runner:
    """One row of :data:`RUNNERS`."""

    name: str
    formats: tuple[str, ...]  # values of ``Variant.format`` that it opens
    module: str  # holds ``load`` and ``unavailable``
    quantized_engines: bool = False  # a PyTorch runtime of several engines, of which one is chosen for int8
    is_timed: bool = True  # False: reference semantics only, its speed means nothing
    is_emulated: bool = False  # so slow that verification feeds it a part of the images
    own_batch: int | None = None  # that verification feeds it, where kernels differ by it; None: whatever is fast
    is_gpu: bool = False  # of this host: float32 alone, timed beside the CPU, verified where asked for by name
    toolchain: str | None = None  # whose environment it runs in; None: this one
    stand_in: str | None = None  # whose times these are, where they are nobody's phone: shown, never recommended

    def unavailable(self) -> str | None:
        """Return why this host cannot run it (and what would help), or None where it can."""
        if self.toolchain is not None:
            return unusable(self.toolchain)
        return cast("Callable[[str], str | None]", importlib.import_module(self.module).unavailable)(self.name)

    def load(self, path: Path, variant: Loadable, *, engine: str | None, threads: int) -> Session:
        """Load one file in this process.

        ``engine`` and ``threads`` are set before the runtime's first operation.

        Raises:
            LoadError: the file would not load.
        """
        loader = cast("Callable[..., Session]", importlib.import_module(self.module).load)
        return loader(self.name, path, variant, engine=engine, threads=threads)


RUNNERS: dict[str, Runner] = {
    row.name: row
    for row in (
        Runner(name="torchscript", formats=("torchscript",), module="harness.runners.torch", quantized_engines=True),
        Runner(name="lite", formats=("ptl",), module="harness.runners.torch", quantized_engines=True),
        Runner(
            name="android-x86_64",  # the phone's library, as the emulator on a PC runs it
            formats=("ptl",),
            module="harness.runners.android",
            own_batch=1,  # an app answers one image at a time
            stand_in="an Android emulator on a PC",
        ),
        Runner(
            name="android-arm64",  # the phone's library and kernels, under qemu: right answers, no times
            formats=("ptl",),
            module="harness.runners.android",
            is_timed=False,
            is_emulated=True,
            own_batch=1,  # an app answers one image at a time
        ),
        *(
            Runner(
                name=f"torchscript-{device}",
                formats=("torchscript",),
                module="harness.runners.torch",
                is_gpu=True,
                stand_in="a desktop's GPU",
            )
            for device in ("cuda", "mps")
        ),
        Runner(name="onnxruntime", formats=("onnx", "ort"), module="harness.runners.onnxruntime"),
        Runner(name="onnxruntime-xnnpack", formats=("onnx", "ort"), module="harness.runners.onnxruntime"),
        Runner(name="coreml", formats=("coreml",), module="harness.runners.coreml"),
        Runner(
            name="mil",  # Core ML without a Mac: reference semantics, evaluated op by op in torch
            formats=("coreml",),
            module="harness.runners.mil.program",
            is_timed=False,
        ),
        Runner(name="executorch", formats=("executorch",), module="harness.runners.executorch", toolchain="executorch"),
        Runner(name="litert", formats=("tflite",), module="harness.runners.litert", toolchain="litert"),
        Runner(
            name="litert-android-x86_64",  # TensorFlow Lite's Android library, as an emulator on a PC runs it
            formats=("tflite",),
            module="harness.runners.android",
            own_batch=1,
            stand_in="an Android emulator on a PC",
        ),
        Runner(
            name="litert-android-arm64",  # the phone's own, under qemu
            formats=("tflite",),
            module="harness.runners.android",
            is_timed=False,
            is_emulated=True,
            own_batch=1,
        ),
        Runner(
            name="executorch-arm64",  # ExecuTorch's build for Linux on arm64, with a phone's kernels, under qemu
            formats=("executorch",),
            module="harness.runners.android",
            is_timed=False,
            is_emulated=True,
            own_batch=1,
        ),
        Runner(
            name="eager",  # the reference: opens a bundle, not a file, and so no format
            formats=(),
            module="harness.runners.torch",
            quantized_engines=True,
        ),
    )
}


def checked_input(batch: FloatArray, variant: Loadable) -> FloatArray:
    """Return the batch, contiguous.

    Raises:
        InferenceError: it is not float32 (n, 3, H, W), or n is not the batch that the variant was exported for.
    """
    if batch.dtype != np.float32 or batch.ndim != 4 or batch.shape[1] != 3:
        raise InferenceError(f"{variant.id} takes float32 (n, 3, H, W), and got {batch.dtype} {tuple(batch.shape)}.")
    if variant.batch is not None and len(batch) != variant.batch:
        raise InferenceError(f"{variant.id} was exported for batches of {variant.batch}, and got {len(batch)}.")
    return np.ascontiguousarray(batch)


def checked_output(output: object, batch: FloatArray, variant: Loadable) -> FloatArray:
    """Return what a runtime gave.

    Raises:
        InferenceError: it is not one float32 array (n, C).
    """
    if not isinstance(output, np.ndarray):
        raise InferenceError(f"{variant.id} gave a {type(output).__name__} where one float32 array (n, C) is expected.")
    if output.dtype != np.float32 or output.ndim != 2 or len(output) != len(batch):
        raise InferenceError(
            f"{variant.id} gave {output.dtype} {tuple(output.shape)} for {len(batch)} inputs; "
            f"expected is float32 ({len(batch)}, C)."
        )
    return output


def runners_for(format_name: str) -> tuple[Runner, ...]:
    """Return the rows that open a format, in the table's order."""
    return tuple(row for row in RUNNERS.values() if format_name in row.formats)


def verifiers_for(format_name: str, names: Sequence[str] | None) -> tuple[Runner, ...]:
    """Return the rows that verify a format: those of ``names``, or for None every one that a phone may resemble."""
    return tuple(r for r in runners_for(format_name) if (not r.is_gpu if names is None else r.name in names))


def stand_in(runner: str) -> str | None:
    """Return whose times a runner's are where they are nobody's phone; None for all others, and for a name unknown."""
    row = RUNNERS.get(runner)
    return None if row is None else row.stand_in


def is_gpu(runner: str) -> bool:
    """Tell whether a runner computes on a GPU of the host."""
    row = RUNNERS.get(runner)
    return row is not None and row.is_gpu
