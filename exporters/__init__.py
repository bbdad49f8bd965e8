"""Artifact → variants: the files that phones run, in one bundle that proves itself."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from exporters.export import export_bundle
    from exporters.formats import FORMATS, ExportOptions

__all__ = ["FORMATS", "ExportOptions", "export_bundle"]

# Looked up when asked for: a process that opens one file for onnxruntime should not import PyTorch for it.
_HOMES = {"FORMATS": "exporters.formats", "ExportOptions": "exporters.formats", "export_bundle": "exporters.export"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'exporters' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
