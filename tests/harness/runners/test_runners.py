"""Every row of RUNNERS keeps the contract, on files that were really exported."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from exporters.bundle.manifest import Variant, plain
from exporters.bundle.open import Bundle, open_bundle
from harness.inputs import golden_pack
from harness.runners.onnxruntime import saturates
from harness.runners.table import RUNNERS, Runner, runners_for
from udacisense.base.records import Outcome
from udacisense.errors import InferenceError, LoadError
from udacisense.measure.confidence import probabilities

ROWS = [pytest.param(row, id=row.name) for row in RUNNERS.values()]
# One variant of each kind of file; the runners of its format take it.
FILES = ("torchscript-fp32", "ptl-fp32-xnnpack", "onnx-fp32", "ort-fp32", "coreml-fp32", "coreml-fp16-image")


@pytest.fixture(scope="module")
def bundle(small_bundle: Path) -> Bundle:
    return open_bundle(small_bundle)


def usable(row: Runner) -> None:
    reason = row.unavailable()
    if reason is not None:
        pytest.skip(f"{row.name}: {reason}")


def cases() -> list[object]:
    """Pairs of a runner and a variant that it opens, by the tables."""
    return [
        pytest.param(row, name, id=f"{row.name}-{name}")
        for name in FILES
        for row in runners_for(name.split("-", maxsplit=1)[0])
    ]


def inputs_of(bundle: Bundle, variant: Variant, count: int) -> np.ndarray:
    if variant.input_kind == "pixels":
        return golden_pack(bundle.root, bundle.manifest).inputs.pixels[:count].astype(np.float32)
    return bundle.golden_inputs()[:count]


@pytest.mark.parametrize("row", ROWS)
def test_a_row_says_whether_it_can_run_here(row: Runner) -> None:
    reason = row.unavailable()
    assert reason is None or len(reason.split()) >= 2


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML runs here")
def test_core_ml_needs_a_mac_and_the_mil_evaluator_does_not() -> None:
    assert RUNNERS["coreml"].unavailable() == "needs macOS"
    assert RUNNERS["mil"].unavailable() is None
    assert not RUNNERS["mil"].is_timed


@pytest.mark.parametrize(("row", "name"), cases())
def test_a_runner_answers_as_the_golden_pack_says(bundle: Bundle, row: Runner, name: str) -> None:
    usable(row)
    variant = bundle.variant(name)
    assert variant.outcome is Outcome.PASSED, variant.reason
    session = row.load(bundle.path(str(variant.path)), variant, engine=None, threads=1)
    inputs = inputs_of(bundle, variant, 4)
    step = variant.batch or 2
    outputs = np.concatenate([session.run(inputs[i : i + step]) for i in range(0, 4, step)])
    logits = bundle.golden_logits(variant if variant.golden_logits_path else None)[:4]
    is_classifier = variant.output_kind == "probabilities" and variant.golden_logits_path is None
    wanted = probabilities(logits).astype(np.float32) if is_classifier else logits
    tolerance = 2e-2 if variant.precision == "fp16" else 1e-3
    np.testing.assert_allclose(outputs, wanted, rtol=tolerance, atol=tolerance)
    assert session.actual["threads"] == 1
    assert session.actual["engine"] is None


@pytest.mark.parametrize("engine", ["qnnpack", "onednn"])
def test_pytorch_runs_under_the_engine_asked_for(bundle: Bundle, engine: str) -> None:
    variant = bundle.variant("ptl-int8-static-qnnpack")
    session = RUNNERS["lite"].load(bundle.path(str(variant.path)), variant, engine=engine, threads=1)
    assert session.actual["engine"] == engine
    if engine == variant.engine:
        assert session.run(bundle.golden_inputs()[:2]).shape == (2, 10)
    else:  # its activations are signed
        with pytest.raises(InferenceError, match=r"(?i)quint8"):
            session.run(bundle.golden_inputs()[:2])


def test_the_eager_reference_is_rebuilt_from_the_bundle(bundle: Bundle) -> None:
    variant = bundle.variant("torchscript-int8-static-qnnpack")
    session = RUNNERS["eager"].load(bundle.root, variant, engine="qnnpack", threads=1)
    outputs = np.concatenate([session.run(image[None]) for image in bundle.golden_inputs()[:4]])
    np.testing.assert_array_equal(outputs, bundle.golden_logits(variant)[:4])


@pytest.mark.parametrize("name", ["torchscript-fp32", "onnx-fp32", "coreml-fp32"])
def test_inputs_of_another_kind_are_refused_by_name(bundle: Bundle, name: str) -> None:
    variant = bundle.variant(name)
    row = RUNNERS["mil"] if variant.format == "coreml" else runners_for(variant.format)[0]
    session = row.load(bundle.path(str(variant.path)), variant, engine=None, threads=1)
    batch = variant.batch or 2
    with pytest.raises(InferenceError, match=r"takes float32 \(n, 3, H, W\), and got float64"):
        session.run(np.zeros((batch, 3, 32, 32)))  # type: ignore[arg-type]
    with pytest.raises(InferenceError, match=r"got float32 \(1, 32, 32, 3\)"):
        session.run(np.zeros((1, 32, 32, 3), dtype=np.float32))
    if variant.batch is not None:
        with pytest.raises(InferenceError, match="exported for batches of 1, and got 3"):
            session.run(np.zeros((3, 3, 32, 32), dtype=np.float32))


@pytest.mark.parametrize(("row", "name"), cases())
def test_a_file_cut_short_would_not_load(bundle: Bundle, row: Runner, name: str, tmp_path: Path) -> None:
    usable(row)
    variant = bundle.variant(name)
    source = bundle.path(str(variant.path))
    path = tmp_path / source.name
    if source.is_dir():
        shutil.copytree(source, path)
        inner = path / "Data" / "com.apple.CoreML" / "model.mlmodel"
        inner.write_bytes(inner.read_bytes()[:1000])
    else:
        path.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    with pytest.raises(LoadError, match=source.name.replace(".", r"\.")):
        row.load(path, variant, engine=None, threads=1)


def test_int8_sums_are_exact_on_every_processor(tmp_path: Path) -> None:
    """Pairs of uint8 · int8 products leave 16 bits here: x86 without VNNI saturates, unless it is told not to."""
    weights = np.resize(np.array([127, 127, -100, 90], np.int8), (4, 3, 8, 8))
    constants = {"w": weights, "s": np.float32(0.01), "z": np.int8(0), "a": np.float32(1 / 255), "u": np.uint8(0)}
    constants |= {"big": np.float32(0.5), "middle": np.uint8(128)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "a", "u"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "a", "u"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"]),
        helper.make_node("Conv", ["xd", "wd"], ["c"]),
        helper.make_node("QuantizeLinear", ["c", "big", "middle"], ["cq"]),
        helper.make_node("DequantizeLinear", ["cq", "big", "middle"], ["cd"]),
        helper.make_node("Flatten", ["cd"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "pairs",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 3, 8, 8))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("n", 4))],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    path = tmp_path / "pairs.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    images = np.ones((1, 3, 8, 8), np.float32)
    row, variant = RUNNERS["onnxruntime"], plain("pairs", "onnx")
    got, wanted = (row.load(path, variant, engine=e, threads=1).run(images) for e in (None, "disabled"))
    np.testing.assert_array_equal(got, wanted)


def test_an_optimised_int8_file_says_where_the_processor_cannot_judge_it(bundle: Bundle) -> None:
    for name, is_packed in (("ort-int8-static", True), ("ort-fp32", False), ("onnx-int8-static", False)):
        variant = bundle.variant(name)
        session = RUNNERS["onnxruntime"].load(bundle.path(str(variant.path)), variant, engine=None, threads=1)
        assert bool(session.actual.get("saturates")) == (is_packed and saturates())
