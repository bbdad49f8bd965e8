"""What a ``.pte`` file holds: what XNNPACK took, in which type, and what was left to ExecuTorch's own operators.

ExecuTorch's reader parses the program, and its flatc XNNPACK's graph: this runs in the toolchain's environment alone.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.bundle.file_layer import FileLayer
from udacisense.errors import LoadError, cause

_XNNPACK = "XnnpackBackend"
_LAYERS = ("XNNConv2d", "XNNDepthwiseConv2d", "XNNFullyConnected")
_TYPES: dict[str, Any] = {"xnn_datatype_fp32": np.dtype("<f4"), "xnn_datatype_qcint8": np.dtype("i1")}
_INT8 = ("xnn_datatype_qint8", "xnn_datatype_qcint8")


@dataclass(frozen=True)
class PteFile:
    """A parsed file."""

    delegated: dict[str, int]  # operators that XNNPACK took, and how many of each
    left: dict[str, int]  # calls of ExecuTorch's own operators
    layers: tuple[FileLayer, ...]  # in execution order


def read_pte(path: Path) -> PteFile:
    """Parse a file.

    Raises:
        LoadError: it is no ``.pte`` file, or is damaged.
    """
    from executorch.exir._serialize._program import deserialize_pte_binary

    try:
        file = deserialize_pte_binary(path.read_bytes())
        (plan,) = file.program.execution_plan
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
    # The parsers follow whatever a damaged file has.
    except Exception as exc:
        raise LoadError(f"{path} is no whole .pte file ({cause(exc)}); export or copy it again.") from exc
    return PteFile(_counts(kinds), _counts(names), tuple(layers))


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
        is_depthwise = kind == "XNNDepthwiseConv2d"  # (1, h, w, out); the others (out, h, w, in)
        axes = {2: (0, 1), 4: (3, 0, 1, 2) if is_depthwise else (0, 3, 1, 2)}[weights.ndim]
        inner = math.prod(weights.shape[1:3]) if is_depthwise else math.prod(weights.shape[1:])
        made.append(
            FileLayer(
                name=f"{kind} {fields['output_id']}",
                weights=weights.transpose(axes).reshape(weights.shape[3 if is_depthwise else 0], -1),
                macs=inner * math.prod(out["dims"]),
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
    scales = np.frombuffer(data(fields["scale_buffer_idx"]), "<f4").astype(np.float64)
    shape = [1] * wide.ndim
    shape[fields["channel_dim"]] = -1
    result: NDArray[np.float64] = wide * scales[: fields["num_scales"]].reshape(shape)
    return result
