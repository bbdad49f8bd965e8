"""The formats: one row each. A row knows its variants and which file writes them.

To add a format, write ``exporters/<name>.py`` with ``unavailable()``, ``plans(options)`` and ``export(plan, bench)``,
and add a row to :data:`FORMATS`; the contract tests iterate the table.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from exporters.manifest import Coverage, Format, Precision
from udacisense.errors import InputError, UdacisenseError, did_you_mean
from udacisense.types import Scalar, record

if TYPE_CHECKING:
    from exporters.workbench import Workbench

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
DeploymentTarget = Literal["iOS16", "iOS17", "iOS18"]


class NotPossibleError(UdacisenseError):
    """A variant cannot be made of this model, of these images or on this host; it is skipped, not failed."""


@record
class ExportOptions:
    """What to export and how. Every field has a default, because each is an option of its own to a user."""

    formats: tuple[str, ...] = ("torchscript", "ptl", "onnx", "coreml", "executorch")
    precisions: tuple[Precision, ...] = PRECISIONS
    engines: tuple[str, ...] = ("fbgemm", "qnnpack")  # for TorchScript; phones, and so .ptl, have qnnpack alone
    batch: int | None = None  # None: dynamic where the format can, 1 where it cannot
    opset: int = 17  # ONNX
    calibration: int = 128  # images for static int8
    float_blocks: int = 3  # that static int8 may leave in float32 where int8 would change decisions
    minimum_deployment_target: DeploymentTarget = "iOS16"  # Core ML; compressed weights need iOS 16
    normalize: bool = False  # mean and std inside the graph: the app feeds 0-255 RGB
    softmax: bool = False  # probabilities instead of logits
    timeout_s: float = 600.0  # for one variant


@record
class Plan:
    """One variant that is to be made."""

    id: str
    format: Format
    precision: Precision
    engine: str | None
    detail: str | None  # what sets it apart from its sisters: "xnnpack", "image"
    file_name: str


@record
class Product:
    """What a format has to say about a file that it wrote."""

    input_kind: Literal["normalized", "pixels"]
    output_kind: Literal["logits", "probabilities"]
    batch: int | None
    coverage: Coverage | None
    precision_note: str
    options: dict[str, Scalar]
    toolchain: dict[str, str]
    deterministic: bool


def make_plan(
    format_name: Format, precision: Precision, suffix: str, *, engine: str | None = None, detail: str | None = None
) -> Plan:
    """Return a plan whose id is ``<format>-<precision>[-<engine>][-<detail>]``."""
    name = "-".join(part for part in (format_name, precision, engine, detail) if part)
    return Plan(
        id=name,
        format=format_name,
        precision=precision,
        engine=engine,
        detail=detail,
        file_name=f"model-{name}{suffix}",
    )


@dataclass(frozen=True, kw_only=True)
class FormatRow:
    """One row of :data:`FORMATS`."""

    name: str
    module: str  # holds unavailable, plans and export
    writes: tuple[Format, ...]  # values of ``Variant.format``
    precisions: tuple[Precision, ...]
    summary: str  # for the person who chooses

    def unavailable(self) -> str | None:
        """Return why this host cannot write it (and what would help), or None where it can."""
        return cast("Callable[[], str | None]", self._module().unavailable)()

    def plans(self, options: ExportOptions) -> tuple[Plan, ...]:
        """Return the variants that the options ask for, in the order of export."""
        made = cast("Callable[[ExportOptions], tuple[Plan, ...]]", self._module().plans)(options)
        return tuple(plan for plan in made if plan.precision in options.precisions)

    def export(self, plan: Plan, bench: Workbench) -> Product:
        """Write one variant to ``bench.folder / plan.file_name``.

        Raises:
            UdacisenseError: with the reason; foreign converters raise what they raise.
        """
        return cast("Callable[[Plan, Workbench], Product]", self._module().export)(plan, bench)

    def _module(self) -> Any:
        return importlib.import_module(self.module)


FORMATS: dict[str, FormatRow] = {
    row.name: row
    for row in (
        FormatRow(
            name="torchscript",
            module="exporters.torchscript",
            writes=("torchscript",),
            precisions=("fp32", "int8-dynamic", "int8-static"),
            summary="TorchScript .pt, traced and frozen, for LibTorch",
        ),
        FormatRow(
            name="ptl",
            module="exporters.lite",
            writes=("ptl",),
            precisions=("fp32", "int8-dynamic", "int8-static"),
            summary="PyTorch Mobile's lite interpreter .ptl, plain and with XNNPACK's prepacked weights",
        ),
        FormatRow(
            name="onnx",
            module="exporters.onnx",
            writes=("onnx", "ort"),
            precisions=("fp32", "fp16", "int8-dynamic", "int8-static"),
            summary="ONNX .onnx, and each optimised offline as .ort for onnxruntime-mobile",
        ),
        FormatRow(
            name="coreml",
            module="exporters.coreml",
            writes=("coreml",),
            precisions=("fp32", "fp16", "int8-weights", "palette6", "palette4"),
            summary="Core ML .mlpackage (mlprogram) for iPhone, iPad and Mac",
        ),
        FormatRow(
            name="executorch",
            module="exporters.executorch",
            writes=("executorch",),
            precisions=("fp32", "int8-static"),
            summary="ExecuTorch .pte through XNNPACK, the successor of PyTorch Mobile",
        ),
    )
}


def expand_precisions(names: tuple[str, ...]) -> tuple[Precision, ...]:
    """Return the precisions that names stand for: each itself, or ``int8`` and ``palette`` for all of that kind.

    Raises:
        InputError: a name stands for none.
    """
    chosen: set[Precision] = set()
    for name in names:
        found = {p for p in PRECISIONS if name in ("all", p) or (name in ("int8", "palette") and p.startswith(name))}
        if not found:
            allowed = (*PRECISIONS, "int8", "palette", "all")
            hint = did_you_mean(name, allowed)
            raise InputError(f"There is no precision {name!r}; choose of {', '.join(allowed)}.{hint}")
        chosen |= found
    return tuple(p for p in PRECISIONS if p in chosen)


def expand_formats(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return rows of :data:`FORMATS` in the table's order; ``all`` stands for every one.

    Raises:
        InputError: a name is no row.
    """
    unknown = [name for name in names if name != "all" and name not in FORMATS]
    if unknown:
        hint = did_you_mean(unknown[0], FORMATS)
        raise InputError(f"There is no format {unknown[0]!r}; choose of {', '.join(FORMATS)}, all.{hint}")
    return tuple(name for name in FORMATS if name in names or "all" in names)
