"""The formats: one row each. A row knows its variants and which file writes them.

To add a format, write ``exporters/formats/<name>.py`` with ``plans(options)`` and ``export(plan, bench)``, and add a
row to :data:`FORMATS`; the contract tests iterate the table.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from exporters.formats.contract import ExportOptions, Plan, Product
from exporters.toolchain.setup import unusable

if TYPE_CHECKING:
    from exporters.formats.workbench import Workbench


@dataclass(frozen=True, kw_only=True)
class FormatRow:
    """One row of :data:`FORMATS`."""

    name: str
    module: str  # holds plans and export
    toolchain: str | None = None  # whose environment writes it; None: this one

    def unavailable(self) -> str | None:
        """Return why this host cannot write it (and what would help), or None where it can."""
        return None if self.toolchain is None else unusable(self.toolchain)

    def plans(self, options: ExportOptions) -> tuple[Plan, ...]:
        """Return the variants that the options ask for, in the order of export."""
        made = cast("Callable[[ExportOptions], tuple[Plan, ...]]", self._module().plans)(options)
        return tuple(plan for plan in made if plan.precision in options.precisions)

    def export(self, plan: Plan, bench: Workbench) -> Product:
        """Write one variant to ``bench.folder / plan.file_name``.

        Raises:
            UdacisenseError: with the reason; foreign converters raise what they raise.
        """
        from udacisense.stages.graph import require_no_decision

        bench.once("decisions", lambda: require_no_decision(bench.model, bench.golden_inputs[:1]))
        return cast("Callable[[Plan, Workbench], Product]", self._module().export)(plan, bench)

    def _module(self) -> Any:
        return importlib.import_module(self.module)


FORMATS: dict[str, FormatRow] = {
    row.name: row
    for row in (
        FormatRow(name="torchscript", module="exporters.formats.torchscript"),
        FormatRow(name="ptl", module="exporters.formats.lite"),
        FormatRow(name="onnx", module="exporters.formats.onnx.write"),  # and .ort
        FormatRow(name="coreml", module="exporters.formats.coreml"),
        FormatRow(name="executorch", module="exporters.formats.executorch", toolchain="executorch"),
        FormatRow(name="tflite", module="exporters.formats.litert", toolchain="litert"),
    )
}
