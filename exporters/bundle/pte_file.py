"""What a ``.pte`` file holds: what XNNPACK took, in which type, and what was left to ExecuTorch's own operators.

ExecuTorch's reader parses the program, and its flatc XNNPACK's graph: this runs in the toolchain's environment alone.
"""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.bundle.file_layer import FileLayer, channels_last_layer, dequantised
from exporters.bundle.metadata import Metadata
from udacisense.base.files import METADATA_KEY
from udacisense.base.records import from_json
from udacisense.errors import LoadError, cause

_XNNPACK = "XnnpackBackend"
_LAYERS = ("XNNConv2d", "XNNDepthwiseConv2d", "XNNFullyConnected")
_TYPES: dict[str, Any] = {"xnn_datatype_fp32": np.dtype("<f4"), "xnn_datatype_qcint8": np.dtype("i1")}
_INT8 = ("xnn_datatype_qint8", "xnn_datatype_qcint8")


@dataclass(frozen=True)
class PteFile:
    """A parsed file."""

    backends: tuple[str, ...]  # that took operators
    delegated: dict[str, int]  # operators that XNNPACK took, and how many of each
    left: dict[str, int]  # calls of ExecuTorch's own operators
    layers: tuple[FileLayer, ...]  # in execution order
    metadata: Metadata | None  # None: another tool wrote it


def read_pte(path: Path) -> PteFile:
    """Parse a file.

    Raises:
        LoadError: it is no ``.pte`` file, or is damaged.
    """
    from executorch.exir._serialize._program import deserialize_pte_binary

    try:
        file = deserialize_pte_binary(path.read_bytes())
        plan = next(plan for plan in file.program.execution_plan if plan.name == "forward")
        called = [step.instr_args for chain in plan.chains for step in chain.instructions]
        names = [plan.operators[step.op_index].name for step in called if hasattr(step, "op_index")]
        chosen = [plan.delegates[step.delegate_index] for step in called if hasattr(step, "delegate_index")]
        graphs = [
            _graph(file.program.backend_delegate_data[delegate.processed.index].data)
            for delegate in chosen
            if delegate.id == _XNNPACK
        ]
        kinds = [node["xnode_union_type"] for graph in graphs for node in graph["xnodes"]]
        layers = [layer for graph in graphs for layer in _layers(graph, file.named_data)]
        told = [plan.values[plan.outputs[0]].val for plan in file.program.execution_plan if plan.name == METADATA_KEY]
    # The parsers follow whatever a damaged file has.
    except Exception as exc:
        raise LoadError(f"{path} is no whole .pte file ({cause(exc)}); export or copy it again.") from exc
    return PteFile(
        backends=tuple(dict.fromkeys(delegate.id for delegate in chosen)),
        delegated=_counts(kinds),
        left=_counts(names),
        layers=tuple(layers),
        metadata=from_json(Metadata, told[0].string_val, source=f"the metadata in {path}") if told else None,
    )


def _counts(names: list[str]) -> dict[str, int]:
    return {name: names.count(name) for name in sorted({*names})}


def _graph(data: bytes) -> dict[str, Any]:
    from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader, _get_schema_bytes
    from executorch.exir._serialize._flatbuffer import _flatc_decompile

    header = XNNHeader.from_bytes(data[: XNNHeader.EXPECTED_LENGTH])
    with tempfile.TemporaryDirectory(prefix="udacisense-pte-") as name:
        folder = Path(name)
        (folder / "schema.fbs").write_bytes(_get_schema_bytes())
        start = header.flatbuffer_offset
        (folder / "graph.bin").write_bytes(data[start : start + header.flatbuffer_size])
        _flatc_decompile(name, str(folder / "schema.fbs"), str(folder / "graph.bin"), ["--raw-binary"])
        text = (folder / "graph.json").read_text(encoding="utf-8")
    made: dict[str, Any] = json.loads(re.sub(r": (-?)inf\b", r": \1Infinity", text))
    return made


def _layers(graph: dict[str, Any], named: Any) -> list[FileLayer]:
    values = [_plain(value["xvalue_union"]) for value in graph["xvalues"]]
    by_id = {value["id_out"]: value for value in values}
    made = []
    for node in (node for node in graph["xnodes"] if node["xnode_union_type"] in _LAYERS):
        kind, fields = node["xnode_union_type"], node["xnode_union"]
        given, stored, out = (by_id[fields[key]] for key in ("input1_id", "filter_id", "output_id"))
        weights = _weights(stored, graph["constant_data"], named)
        made.append(
            channels_last_layer(
                f"{kind} {fields['output_id']}",
                weights,
                is_depthwise=kind == "XNNDepthwiseConv2d",
                output_shape=out["dims"],
                is_int8=all(value["datatype"] in _INT8 for value in (given, stored, out)),
            )
        )
    return made


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """Return a value's fields, a quantised one's with its parameters."""
    if "tensor_value" not in value:
        return value
    tensor: dict[str, Any] = value["tensor_value"]
    return {**tensor, "quantized": value["quant_params"]}


def _weights(value: dict[str, Any], constants: list[dict[str, Any]], named: Any) -> NDArray[np.float64]:
    def data(index: int) -> bytes:
        found: bytes = named.buffers[named.pte_data[constants[index]["named_key"]].buffer_index]
        return found

    values = np.frombuffer(data(value["constant_buffer_idx"]), _TYPES[value["datatype"]]).reshape(value["dims"])
    wide: NDArray[np.float64] = values.astype(np.float64)
    if "quantized" not in value:
        return wide
    fields = value["quantized"]
    scales = np.frombuffer(data(fields["scale_buffer_idx"]), "<f4", fields["num_scales"])
    return dequantised(wide, scales, 0, fields["channel_dim"])
