"""The weights inside a file against the reference's: what answers alone cannot show where a precision is coarse.

Rounding and clustering leave noise around a weight, but no bias: the least-squares slope of the reference's weights on
the file's is 1 whatever the number of bits (for k-means it is 1 exactly, as each centre is the mean of its own). A
layer that was scaled by 1 % shows as a slope of 0.99, two exchanged channels as channels that do not correlate.

Run as a process of its own (``python -m harness.verify.inside.weights FOLDER``): the files may be damaged.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from exporters.bundle.open import open_bundle
from harness.verify.inside.first_input import compare_input, reference_input
from harness.verify.inside.own_weights import compare_own, fused_reference, layers_in_order, program_weights
from harness.verify.inside.zero_points import zero_point_problems
from udacisense.base.child import RESULT, run_child
from udacisense.base.records import read_json, record, write_record
from udacisense.errors import cause

if TYPE_CHECKING:
    from torch import Tensor, nn

    from exporters.bundle.manifest import Variant

Weights = list[tuple[str, NDArray[np.float64]]]  # name, (out channels, everything else)

# Precisions whose answers are too coarse to show a small fault; the others are held to their source's numbers.
PRECISIONS = ("fp16", "int8-dynamic", "int8-static", "int8-weights", "palette6", "palette4")
FORMATS = ("onnx", "coreml")

_SLOPE = 0.003
_CORRELATION = 0.5
_SMALL = 0.2  # a channel below this share of the layer's RMS may vanish in a coarse palette


@record
class WeightsJob:
    """``job.json``."""

    bundle: str  # absolute
    variant_ids: tuple[str, ...]
    allow_factory: str | None

    FILE_NAME: ClassVar[str] = "job.json"


@record
class WeightsFound:
    """What was found in one file."""

    problems: tuple[str, ...]  # nothing where they are the reference's
    note: str | None  # why they could not be compared


@record
class WeightsResult:
    """``result.json``."""

    found: dict[str, WeightsFound]  # by variant id


def check_weights(
    bundle: Path, variants: Sequence[Variant], *, allow_factory: str | None, timeout_s: float
) -> Mapping[str, WeightsFound]:
    """Return what was found, by variant id, of the variants that this can look into.

    All of them are read in one process; where that dies, each in its own, so that the guilty one is named.
    An ``.ort`` is held against the answers of the ``.onnx`` that it was optimised from: what is wrong with that one is
    wrong with it.
    """
    ids = [v.id for v in variants if v.format in FORMATS and v.precision in PRECISIONS and v.path is not None]
    sisters = _sisters(bundle, variants)
    found = _look(bundle, tuple(dict.fromkeys((*ids, *sisters.values()))), allow_factory, timeout_s)
    return {name: found[name] for name in ids} | {
        name: WeightsFound(problems=tuple(f"in {sister}: {p}" for p in found[sister].problems), note=found[sister].note)
        for name, sister in sisters.items()
    }


def _sisters(bundle: Path, variants: Sequence[Variant]) -> dict[str, str]:
    """Return the ``.ort`` variants whose ``.onnx`` can be looked into, with its id."""
    wanted = [v for v in variants if v.format == "ort" and v.precision in PRECISIONS and v.path is not None]
    if not wanted:
        return {}
    graphs = {v.precision: v.id for v in open_bundle(bundle).exported() if v.format == "onnx"}
    return {v.id: graphs[v.precision] for v in wanted if v.precision in graphs}


def _look(bundle: Path, ids: tuple[str, ...], allow_factory: str | None, timeout_s: float) -> dict[str, WeightsFound]:
    if not ids:
        return {}
    result = _run(bundle, ids, allow_factory, timeout_s)
    if isinstance(result, WeightsResult):
        return result.found
    found: dict[str, WeightsFound] = {}
    for name in ids:
        alone = _run(bundle, (name,), allow_factory, timeout_s)
        found[name] = alone.found[name] if isinstance(alone, WeightsResult) else _unread(alone)
    return found


def _unread(reason: str) -> WeightsFound:
    return WeightsFound(problems=(f"its weights cannot be read: {reason}",), note=None)


def _run(bundle: Path, ids: tuple[str, ...], allow_factory: str | None, timeout_s: float) -> WeightsResult | str:
    with tempfile.TemporaryDirectory(prefix="udacisense-weights-") as name:
        folder = Path(name)
        job = WeightsJob(bundle=str(bundle.absolute()), variant_ids=ids, allow_factory=allow_factory)
        write_record(folder / WeightsJob.FILE_NAME, job)
        failure = run_child(__name__, folder, timeout_s=timeout_s)
        return failure if failure is not None else read_json(WeightsResult, folder / RESULT)


def compare_weights(expected: Weights, got: Weights) -> WeightsFound:
    """Say what is wrong, each layer in words.

    A network that calls layers in another way than as modules has other counts, and cannot be compared.

    Args:
        expected: of the reference, BatchNorm folded, in execution order.
        got: of the file, widened to float, in the same order.
    """
    if len(expected) != len(got):
        counts = f"{len(got)} layers with weights in the file, {len(expected)} in its source"
        return WeightsFound(problems=(), note=f"weights not compared: {counts}")
    problems = []
    for (name, source), (other, stored) in zip(expected, got, strict=True):
        problem = _layer_problem(source, stored)
        if problem is not None:
            problems.append(f"the weights of {name} ({other}) are not its source's: {problem}")
    return WeightsFound(problems=tuple(problems), note=None)


def _layer_problem(source: NDArray[np.float64], stored: NDArray[np.float64]) -> str | None:
    if source.shape != stored.shape:
        return f"shape {stored.shape}, not {source.shape}"
    if not np.isfinite(stored).all():
        return "NaN or infinite values"
    power = float((stored * stored).sum())
    slope = float((source * stored).sum()) / power if power > 0 else 0.0
    if abs(slope - 1) > _SLOPE:
        return f"they are {1 / slope:.4g} times as large" if slope > 0 else "they do not resemble each other"
    norms = np.linalg.norm(source, axis=1), np.linalg.norm(stored, axis=1)
    product = norms[0] * norms[1]
    correlation = np.divide((source * stored).sum(axis=1), product, out=np.ones_like(product), where=product > 0)
    heavy = norms[0] > _SMALL * np.sqrt(np.square(norms[0]).mean())
    strange = np.flatnonzero(heavy & (correlation < _CORRELATION))
    return f"channels {', '.join(map(str, strange[:4]))} are others" if strange.size else None


def reference_weights(reference: nn.Module, example: Tensor) -> Weights:
    """Return the reference's weights in execution order.

    Args:
        reference: of :func:`harness.verify.inside.own_weights.fused_reference`.
        example: float32 (1, 3, H, W).
    """
    return [
        (name, _rows(module.weight.detach().numpy()))  # type: ignore[operator]
        for name, module in layers_in_order(reference, example)
    ]


def _rows(weight: Any) -> NDArray[np.float64]:
    wide = np.asarray(weight, dtype=np.float64)
    rows: NDArray[np.float64] = wide.reshape(len(wide), -1)
    return rows


def mil_weights(package: Path) -> Weights:
    """Return the weights of a Core ML package, expanded by coremltools."""
    from harness.runners.mil.program import read_program

    return [(name, _rows(weight)) for name, weight in program_weights(read_program(package))]


def onnx_weights(path: Path) -> Weights:
    """Return the weights of an ``.onnx`` file, dequantised."""
    import onnx
    from onnx import numpy_helper

    from exporters.formats.onnx import RESIZING

    graph = onnx.load(path).graph
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    found: Weights = []
    for node in graph.node:
        reader = None if node.name.startswith(RESIZING) else _ONNX_READERS.get(node.op_type)
        weight = None if reader is None else reader(node, constants, producers)
        if weight is not None:
            found.append((node.name or node.output[0], _rows(weight)))
    return found


_Constants = Mapping[str, NDArray[Any]]


def _float_weight(name: str, constants: _Constants, producers: Mapping[str, Any]) -> NDArray[Any] | None:
    """Return a constant, or what a DequantizeLinear or Cast makes of one."""
    if name in constants:
        return constants[name]
    node = producers.get(name)
    if node is None or node.input[0] not in constants:
        return None
    if node.op_type == "Cast":
        given: NDArray[Any] = constants[node.input[0]]
        return given
    if node.op_type != "DequantizeLinear":
        return None
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    zero = constants[node.input[2]] if len(node.input) > 2 else np.zeros_like(constants[node.input[1]])
    return _dequantised(constants[node.input[0]], constants[node.input[1]], zero, axis)


def _dequantised(values: NDArray[Any], scale: NDArray[Any], zero: NDArray[Any], axis: int) -> NDArray[np.float64]:
    shape = [1] * values.ndim
    if scale.size > 1:
        shape[axis] = -1
    wide = values.astype(np.float64) - zero.astype(np.float64).reshape(shape if zero.size > 1 else [1] * values.ndim)
    result: NDArray[np.float64] = wide * scale.astype(np.float64).reshape(shape)
    return result


def _conv(node: Any, constants: _Constants, producers: Mapping[str, Any]) -> NDArray[Any] | None:
    return _float_weight(node.input[1], constants, producers)


def _gemm(node: Any, constants: _Constants, producers: Mapping[str, Any]) -> NDArray[Any] | None:
    weight = _float_weight(node.input[1], constants, producers)
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    if weight is None or transposed:
        return weight
    turned: NDArray[Any] = weight.T
    return turned


def _matmul_integer(node: Any, constants: _Constants, _: Mapping[str, Any]) -> NDArray[Any] | None:
    name = node.input[1]
    base = name.removesuffix("_quantized")
    if name not in constants or f"{base}_scale" not in constants:
        return None
    scale = constants[f"{base}_scale"]
    zero = constants[node.input[3]] if len(node.input) > 3 else np.zeros_like(scale)
    turned: NDArray[Any] = _dequantised(constants[name], scale, zero, 1).T
    return turned


_ONNX_READERS: dict[str, Callable[[Any, _Constants, Mapping[str, Any]], NDArray[Any] | None]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _gemm,
    "MatMulInteger": _matmul_integer,
}


def main(folder: Path) -> None:
    """Do the job in ``folder`` and leave ``result.json``."""
    job = read_json(WeightsJob, folder / WeightsJob.FILE_NAME)
    bundle = open_bundle(Path(job.bundle))
    variants = [bundle.variant(name) for name in job.variant_ids]
    reference = fused_reference(bundle, variants[0], job.allow_factory)
    expected = reference_weights(reference, torch.from_numpy(bundle.golden_inputs()[:1]))
    expected_input = reference_input(bundle, variants[0], job.allow_factory)
    found: dict[str, WeightsFound] = {}
    for variant in variants:
        path = bundle.path(str(variant.path))
        try:
            got = mil_weights(path) if variant.format == "coreml" else onnx_weights(path)
            weights, front = compare_weights(expected, got), compare_input(bundle, variant, expected_input)
            own = compare_own(bundle, variant, reference)
            points = zero_point_problems(path) if variant.format == "onnx" else ()
            found[variant.id] = WeightsFound(
                problems=tuple(p for p in (front[0], own[0], *points, *weights.problems) if p),
                note="; ".join(text for text in (weights.note, front[1], own[1]) if text) or None,
            )
        # Whatever a parser raises on a damaged file, this variant's weights are not known to be right.
        except Exception as exc:
            found[variant.id] = _unread(cause(exc))
    write_record(folder / RESULT, WeightsResult(found=found))
