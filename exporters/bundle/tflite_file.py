"""What a ``.tflite`` file holds: operators, weights, and what computes in int8; read by the schema, nothing runs."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.bundle.file_layer import FileLayer, channels_last_layer, dequantised
from udacisense.base.files import what_it_is
from udacisense.errors import LoadError

_IDENTIFIER = b"TFL3"
LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


@dataclass(frozen=True)
class TfliteFile:
    """A parsed file."""

    path: Path
    model: Any  # the schema's

    @cached_property
    def graph(self) -> Any:
        """Its only subgraph."""
        return self.model.Subgraphs(0)

    @cached_property
    def codes(self) -> tuple[tuple[str, int], ...]:
        """Name and version of each operator code; a custom one's name begins with ``custom:``."""
        from tflite import BuiltinOperator

        names = {number: name for name, number in vars(BuiltinOperator).items() if isinstance(number, int)}
        found = (self.model.OperatorCodes(i) for i in range(self.model.OperatorCodesLength()))
        return tuple(
            (
                f"custom:{c.CustomCode().decode()}" if c.CustomCode() else names.get(_builtin(c), "unknown"),
                c.Version(),
            )
            for c in found
        )

    @cached_property
    def operators(self) -> tuple[tuple[str, Any], ...]:
        """Its operators in execution order, each with its name."""
        found = (self.graph.Operators(i) for i in range(self.graph.OperatorsLength()))
        return tuple((self.codes[operator.OpcodeIndex()][0], operator) for operator in found)

    @cached_property
    def min_runtime_version(self) -> str | None:
        """The oldest TensorFlow Lite that runs it, as its converter says."""
        for entry in (self.model.Metadata(i) for i in range(self.model.MetadataLength())):
            if entry.Name() == b"min_runtime_version":
                data: bytes = self.model.Buffers(entry.Buffer()).DataAsNumpy().tobytes()
                return data.rstrip(b"\0").decode() or None
        return None

    @cached_property
    def layers(self) -> tuple[FileLayer, ...]:
        """Its convolutions and linear layers, in execution order; a layer is called by its output."""
        made = (self._layer(kind, operator) for kind, operator in self.operators if kind in LAYERS)
        return tuple(layer for layer in made if layer is not None)

    def _layer(self, kind: str, op: Any) -> FileLayer | None:
        weights = self._constant(op.Inputs(1))
        if weights is None:
            return None
        given, stored, out = (self.graph.Tensors(i) for i in (op.Inputs(0), op.Inputs(1), op.Outputs(0)))
        return channels_last_layer(
            out.Name().decode(),
            weights,
            is_depthwise=kind == "DEPTHWISE_CONV_2D",
            output_shape=out.ShapeAsNumpy().tolist(),
            is_int8=_INT8 == given.Type() == stored.Type() == out.Type(),
        )

    def _constant(self, index: int) -> NDArray[np.float64] | None:
        """Return a constant tensor, widened to float; one that is widened while the file runs is a constant too."""
        tensor = self.graph.Tensors(index)
        if tensor.Type() not in _TYPES or not self.model.Buffers(tensor.Buffer()).DataLength():
            source = self._widened.get(index)
            return None if source is None else self._constant(source)
        data = self.model.Buffers(tensor.Buffer()).DataAsNumpy().view(_TYPES[tensor.Type()])
        values: NDArray[np.float64] = data.reshape(tensor.ShapeAsNumpy()).astype(np.float64)
        scales = tensor.Quantization()
        if scales is None or not scales.ScaleLength():
            return values
        zeros = scales.ZeroPointAsNumpy() if scales.ZeroPointLength() else 0
        return dequantised(values, scales.ScaleAsNumpy(), zeros, scales.QuantizedDimension())

    @cached_property
    def _widened(self) -> dict[int, int]:
        """What DEQUANTIZE gives → what it is given."""
        return {op.Outputs(0): op.Inputs(0) for kind, op in self.operators if kind == "DEQUANTIZE"}


def _builtin(code: Any) -> int:
    """Return the number of a builtin operator: the larger of two fields, as in TensorFlow Lite (schema_utils.cc).

    The package takes the old field alone for small numbers, which not all tools set.
    """
    from flatbuffers.number_types import Int32Flags

    place = code._tab.Offset(10)
    return max(int(code.DeprecatedBuiltinCode()), int(code._tab.Get(Int32Flags, place + code._tab.Pos)) if place else 0)


# TensorType of the schema: FLOAT32, FLOAT16, INT8.
_INT8 = 9
_TYPES: dict[int, Any] = {0: np.dtype("<f4"), 1: np.dtype("<f2"), _INT8: np.dtype("i1")}


def read_tflite(path: Path) -> TfliteFile:
    """Parse a file.

    Raises:
        LoadError: it is no ``.tflite`` file of one graph, or is damaged.
    """
    import tflite

    data = path.read_bytes()
    try:
        if data[4:8] != _IDENTIFIER:
            raise ValueError(what_it_is(path) or "it does not begin as one")
        found = TfliteFile(path, tflite.Model.GetRootAsModel(data, 0))
        if found.model.SubgraphsLength() != 1:
            raise ValueError(f"it has {found.model.SubgraphsLength()} graphs")
        _ = found.codes, found.layers  # offsets that point anywhere show here
    # The schema's classes follow whatever offsets a damaged file has.
    except (struct.error, ValueError, IndexError, TypeError, AttributeError, MemoryError, OverflowError) as exc:
        raise LoadError(f"{path} is no whole .tflite file of one graph ({exc}); export or copy it again.") from exc
    return found
