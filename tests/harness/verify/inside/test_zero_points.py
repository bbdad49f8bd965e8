"""Zero points of values that are never negative."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from bundle_damage import copied, rehash
from onnx import TensorProto, helper, numpy_helper

from exporters.bundle.open import open_bundle
from harness.verify.inside.zero_points import zero_point_problems
from harness.verify.options import VerifyOptions
from harness.verify.run import verify_bundle
from udacisense.base.records import Outcome

NAME = "onnx-int8-static"


def written(folder: Path, nodes: list[onnx.NodeProto], zero: np.ndarray) -> Path:
    """Write a graph whose value "y" is quantised with a zero point."""
    nodes = [*nodes, helper.make_node("QuantizeLinear", ["y", "scale", "zero"], ["q"])]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])
    output = helper.make_tensor_value_info("q", helper.np_dtype_to_tensor_dtype(zero.dtype), [1, 4])
    constants = {"scale": np.float32(0.1), "zero": zero, "low": np.float32(0), "below": np.float32(-1)}
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    path = folder / "small.onnx"
    onnx.save(helper.make_model(helper.make_graph(nodes, "small", [given], [output], tensors)), path)
    return path


RELU = [helper.make_node("Relu", ["x"], ["y"])]
FAR = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Flatten", ["r"], ["y"])]
CLIP = [helper.make_node("Clip", ["x", "low"], ["y"])]
OTHER_CLIP = [helper.make_node("Clip", ["x", "below"], ["y"])]
NEGATIVE = [helper.make_node("Neg", ["x"], ["y"])]
SHIFTED_BACK = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Neg", ["r"], ["y"])]


@pytest.mark.parametrize(
    ("nodes", "zero", "words"),
    [
        (RELU, np.uint8(0), None),
        (RELU, np.int8(-128), None),
        (RELU, np.uint8(90), "the zero point of y is 90, not 0: integers stand for values below 0, which Relu never"),
        (RELU, np.int8(0), "the zero point of y is 0, not -128"),
        (FAR, np.uint8(90), "which Relu never leaves"),
        (CLIP, np.uint8(90), "which Clip never leaves"),
        (OTHER_CLIP, np.uint8(90), None),
        (NEGATIVE, np.uint8(90), None),
        (SHIFTED_BACK, np.uint8(90), None),
    ],
)
def test_only_what_cannot_be_negative_is_judged(
    tmp_path: Path, nodes: list[onnx.NodeProto], zero: np.ndarray, words: str | None
) -> None:
    problems = zero_point_problems(written(tmp_path, nodes, zero))
    assert len(problems) == (0 if words is None else 1)
    assert words is None or words in problems[0]


def test_a_shifted_zero_point_fails_a_verification(small_bundle: Path, tmp_path: Path) -> None:
    bundle = open_bundle(copied(small_bundle, tmp_path / "shifted"))
    path = bundle.path(str(bundle.variant(NAME).path))
    assert zero_point_problems(path) == ()
    model = onnx.load(path)
    relus = {node.output[0] for node in model.graph.node if node.op_type == "Relu"}
    points = [n.input[2] for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] in relus]
    point = next(t for t in model.graph.initializer if t.name == points[len(points) // 2])
    point.CopyFrom(numpy_helper.from_array(np.array(90, np.uint8), point.name))
    onnx.save(model, path)
    rehash(bundle.root)
    options = VerifyOptions(variants=(NAME,), runners=("onnxruntime",))
    (found,) = verify_bundle(open_bundle(bundle.root), options).measurements
    assert found.outcome is Outcome.FAILED
    assert "which Relu never leaves" in (found.reason or "")
