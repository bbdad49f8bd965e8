"""Artifact → variants: the files that phones run, in one bundle that proves itself."""

from exporters.export import export_bundle
from exporters.formats import FORMATS, ExportOptions

__all__ = ["FORMATS", "ExportOptions", "export_bundle"]
