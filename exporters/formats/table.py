"""The formats: one row each. A row knows its variants and which file writes them.

To add a format, write ``exporters/<name>.py`` with ``unavailable()``, ``plans(options)`` and ``export(plan, bench)``,
and add a row to :data:`FORMATS`; the contract tests iterate the table.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from exporters.bundle.manifest import Format, Precision
from exporters.formats.contract import PRECISIONS, ExportOptions, Plan, Product
from udacisense.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from exporters.formats.workbench import Workbench


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
            module="exporters.formats.torchscript",
            writes=("torchscript",),
            precisions=("fp32", "int8-dynamic", "int8-static"),
            summary="TorchScript .pt, traced and frozen, for LibTorch",
        ),
        FormatRow(
            name="ptl",
            module="exporters.formats.lite",
            writes=("ptl",),
            precisions=("fp32", "int8-dynamic", "int8-static"),
            summary="PyTorch Mobile's lite interpreter .ptl, plain and with XNNPACK's prepacked weights",
        ),
        FormatRow(
            name="onnx",
            module="exporters.formats.onnx",
            writes=("onnx", "ort"),
            precisions=("fp32", "fp16", "int8-dynamic", "int8-static"),
            summary="ONNX .onnx, and each optimised offline as .ort for onnxruntime-mobile",
        ),
        FormatRow(
            name="coreml",
            module="exporters.formats.coreml",
            writes=("coreml",),
            precisions=("fp32", "fp16", "int8-weights", "palette6", "palette4"),
            summary="Core ML .mlpackage (mlprogram) for iPhone, iPad and Mac",
        ),
        FormatRow(
            name="executorch",
            module="exporters.formats.executorch",
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
