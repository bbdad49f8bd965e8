"""What an exported file says about itself, to tell a file that stands in another's place."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from exporters.bundle.metadata import Metadata, metadata_in, read_extra_file
from udacisense.base.records import Signature, from_json, to_json

if TYPE_CHECKING:
    from exporters.bundle.manifest import Loadable, Variant


def read_identity(variant: Loadable, path: Path) -> str | None:
    """Return a file's own metadata as JSON; None where it has none, or is the eager reference.

    Raises:
        UdacisenseError: the metadata cannot be read.
    """
    if path.is_dir() and variant.format != "coreml":
        return None
    metadata = _READERS[variant.format](path) if variant.format in _READERS else None
    return None if metadata is None else to_json(metadata)


def differences(text: str, variant: Variant, *, artifact_sha256: str, signature: Signature) -> tuple[str, ...]:
    """Return the fields in which a file's metadata is not what the manifest says of it."""
    found = from_json(Metadata, text, source="the file's metadata")
    expected = {
        "variant_id": variant.id,
        "precision": variant.precision,
        "engine": variant.engine,
        "input_kind": variant.input_kind,
        "output_kind": variant.output_kind,
        "batch": variant.batch,
        "artifact_sha256": artifact_sha256,
        "signature": signature,
    }
    return tuple(name for name, value in expected.items() if getattr(found, name) != value)


def _from_onnxruntime(path: Path) -> Metadata | None:
    """Both formats of onnxruntime keep it in the session's metadata."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    entries = session.get_modelmeta().custom_metadata_map
    return metadata_in(entries, path)


def _from_coreml(path: Path) -> Metadata | None:
    from exporters.formats.coreml import read_metadata

    return read_metadata(path)


def _from_executorch(path: Path) -> Metadata | None:
    from exporters.bundle.pte_file import read_pte

    # ExecuTorch's own reader is in its toolchain alone; where its arm64 library runs the file, there is none.
    return read_pte(path).metadata if find_spec("executorch") else None


_READERS = {
    "torchscript": read_extra_file,
    "ptl": read_extra_file,
    "onnx": _from_onnxruntime,
    "ort": _from_onnxruntime,
    "coreml": _from_coreml,
    "tflite": read_extra_file,
    "executorch": _from_executorch,
}
