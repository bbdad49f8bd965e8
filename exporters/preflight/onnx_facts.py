"""Reads ``.onnx`` and ``.ort`` files: metadata, opset and operators.

An ``.ort`` is read in a process of its own, for onnxruntime may crash on a damaged one.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from exporters.bundle.metadata import Metadata, metadata_in
from udacisense.base.child import RESULT, read_in_child
from udacisense.base.files import another_kind, what_it_is
from udacisense.base.records import record, write_record
from udacisense.errors import LoadError, first_line

if TYPE_CHECKING:
    import onnx


_MICROSOFT = "com.microsoft"


@record
class OnnxFacts:
    """What a file needs of its runtime."""

    opset: int  # of the standard operators
    ir_version: int | None  # None: an .ort file, which has none
    operators: dict[str, frozenset[str]]  # domain ("": the standard, also where it is written "ai.onnx") -> types
    unknown: frozenset[str]  # operators that ONNX's own domains do not have at this opset, as <domain>::<type>
    element_types: frozenset[str]  # of every value of an .ort file, as C++ names them; empty for .onnx
    metadata: Metadata | None  # None: another tool wrote the file


def read_facts(path: Path) -> OnnxFacts:
    """Read an ``.onnx`` or ``.ort`` file.

    Raises:
        LoadError: it is neither, or damaged.
    """
    return _ort_facts(path) if path.suffix.lower() == ".ort" else _onnx_facts(path)


def load_model(path: Path) -> onnx.ModelProto:
    """Parse an ``.onnx`` file and check it against the specification, but for operators that it does not have.

    Raises:
        LoadError: it is no ONNX model, or not a valid one, or it keeps weights in another file.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        # Without the files that it names: they may lie anywhere, and an app has this one alone.
        model = onnx.load(path, load_external_data=False)
        outside = [t.name for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
        if outside:
            raise LoadError(
                f"{path} keeps {len(outside)} of its tensors in other files ({outside[0]} is the first); save it as "
                "one file, with the weights inside."
            )
        for named in (*_nodes(model), *model.opset_import, *(n for f in model.functions for n in f.opset_import)):
            named.domain = "" if named.domain == "ai.onnx" else named.domain  # its long name, which the checker lacks
        if not unknown_operators(model):
            onnx.checker.check_model(model)
    except (OSError, DecodeError, onnx.checker.ValidationError, ValueError) as exc:
        raise LoadError(
            f"{path} is no valid ONNX model ({what_it_is(path) or first_line(exc)}); export or copy it again."
        ) from exc
    return model


def unknown_operators(model: onnx.ModelProto) -> frozenset[str]:
    """Return the operators that ONNX's own domains do not have at the opset that the model imports.

    And those of onnxruntime's own domain that its CPU, which is a phone's, has no kernel for.
    """
    import onnx
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_opkernel_def

    opsets = {entry.domain: entry.version for entry in model.opset_import}
    own = {(function.domain, function.name) for function in model.functions}
    used = {(node.domain, node.op_type) for node in _nodes(model)} - own
    kernels = {row.op_name for row in get_all_opkernel_def() if row.domain == _MICROSOFT}
    return frozenset(
        f"{domain or 'ai.onnx'}::{name}"
        for domain, name in used
        if (domain == _MICROSOFT and name not in kernels)
        or (domain in {"", "ai.onnx.ml"} and not onnx.defs.has(name, max(1, opsets.get(domain, 1)), domain))
    )


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield every node: of the graph, of graphs inside its nodes (as ``If`` has them), and of functions."""
    waiting = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while waiting:
        node = waiting.pop()
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                waiting.extend(graph.node)


def _onnx_facts(path: Path) -> OnnxFacts:
    model = load_model(path)
    operators: dict[str, set[str]] = {}
    # Quantised files may wrap operators in functions of the model; those come with the file.
    own = {(function.domain, function.name) for function in model.functions}
    for node in _nodes(model):
        if (node.domain, node.op_type) not in own:
            operators.setdefault(node.domain, set()).add(node.op_type)
    entries = {entry.key: entry.value for entry in model.metadata_props}
    return OnnxFacts(
        opset=next((entry.version for entry in model.opset_import if not entry.domain), 0),
        ir_version=model.ir_version,
        operators={domain: frozenset(names) for domain, names in operators.items()},
        unknown=unknown_operators(model),
        element_types=frozenset(),
        metadata=metadata_in(entries, path),
    )


def _ort_facts(path: Path) -> OnnxFacts:
    if not path.is_file() or path.read_bytes()[4:8] != b"ORTM":
        raise another_kind(path, ".ort model")
    return read_in_child(OnnxFacts, "exporters.preflight.onnx_facts", path)


def _read_ort(path: Path) -> OnnxFacts:
    import onnxruntime
    from onnxruntime.tools.ort_format_model import OrtFormatModelProcessor

    # The reader of its operators makes the schema's classes importable.
    from onnxruntime.tools.ort_format_model.types import FbsTypeInfo
    from ort_flatbuffers_py.fbs.InferenceSession import InferenceSession as Schema

    found: dict[str, dict[int, set[str]]] = {}
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Loaded first: the runtime verifies the file, the reader of its operators does not.
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    with warnings.catch_warnings():
        # It leaves the file for the garbage collector to close.
        warnings.simplefilter("ignore", ResourceWarning)
        OrtFormatModelProcessor(str(path), found, None).process()
    model = Schema.GetRootAsInferenceSession(path.read_bytes(), 0).Model()
    graph = model.Graph()
    values = (graph.NodeArgs(index).Type() for index in range(graph.NodeArgsLength()))
    imports = (model.OpsetImport(index) for index in range(model.OpsetImportLength()))
    opsets = {entry.Domain().decode(): entry.Version() for entry in imports}
    operators = {domain: frozenset().union(*by_opset.values()) for domain, by_opset in found.items()}
    standard = operators.pop("ai.onnx", frozenset()) | operators.pop("", frozenset())
    return OnnxFacts(
        opset=opsets.get("", opsets.get("ai.onnx", 0)),
        ir_version=None,
        operators={"": standard, **operators},
        unknown=frozenset(),  # onnxruntime has loaded it
        element_types=frozenset(FbsTypeInfo.typeinfo_to_str(kind) for kind in values if kind is not None),
        metadata=metadata_in(session.get_modelmeta().custom_metadata_map, path),
    )


def main(folder: Path, path: str) -> None:
    """Leave the facts of an ``.ort`` file in ``folder``."""
    write_record(folder / RESULT, _read_ort(Path(path)))
