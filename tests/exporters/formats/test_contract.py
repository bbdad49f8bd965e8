"""Every variant of every row of FORMATS: written, opens in its own runtime, answers, and says what it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from exporters.bundle.manifest import Variant
from exporters.bundle.metadata import Metadata, read_extra_file
from exporters.formats.contract import ExportOptions
from exporters.formats.coreml import load_spec
from exporters.formats.coreml import read_metadata as read_coreml
from exporters.formats.table import FORMATS
from exporters.preflight.onnx_facts import read_facts
from udacisense.base.files import sha256_path, size_bytes
from udacisense.base.records import Outcome

# Said once a process, by whichever test is the first to run a dynamically quantised layer under QNNPACK.
pytestmark = pytest.mark.filterwarnings("ignore:Currently, qnnpack incorrectly ignores reduce_range:UserWarning")

FloatArray = NDArray[np.float32]
PLANS = [(row, plan) for row in FORMATS.values() for plan in row.plans(ExportOptions())]


@pytest.fixture(params=PLANS, ids=[plan.id for _, plan in PLANS])
def variant(request: pytest.FixtureRequest, exported) -> Variant:
    row, plan = request.param
    found = exported.bundle.variant(plan.id)
    reason = row.unavailable()
    if reason is not None:
        assert found.outcome is Outcome.SKIPPED
        assert found.reason == reason
        pytest.skip(reason)
    return found


def run(path: Path, variant: Variant, batch: FloatArray) -> FloatArray:
    """Answer one batch in the variant's own runtime."""
    if variant.format in {"torchscript", "ptl"}:
        before = torch.backends.quantized.engine
        torch.backends.quantized.engine = variant.engine or before
        try:
            return _run_torch(path, variant, batch)
        finally:
            torch.backends.quantized.engine = before
    if variant.format in {"onnx", "ort"}:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        answer: FloatArray = session.run(["logits"], {"input": batch})[0]
        return answer
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(str(path)).load_method("forward")
    return np.concatenate([method.execute([torch.from_numpy(image[None])])[0].numpy().copy() for image in batch])


def _run_torch(path: Path, variant: Variant, batch: FloatArray) -> FloatArray:
    from torch.jit.mobile import _load_for_lite_interpreter

    load = _load_for_lite_interpreter if variant.format == "ptl" else torch.jit.load
    with torch.no_grad():
        answer: FloatArray = load(str(path))(torch.from_numpy(batch)).numpy()
    return answer


def read_metadata(path: Path, variant: Variant) -> Metadata | None:
    if variant.format in {"torchscript", "ptl"}:
        return read_extra_file(path)
    return read_coreml(path) if variant.format == "coreml" else read_facts(path).metadata


def test_the_file_is_the_one_that_the_manifest_records(exported, variant: Variant) -> None:
    assert variant.outcome is Outcome.PASSED, variant.reason
    assert variant.path is not None
    path = exported.bundle.path(variant.path)
    assert sha256_path(path) == variant.sha256
    assert size_bytes(path) == variant.file_bytes
    assert variant.toolchain["torch"] == torch.__version__.split("+")[0]
    assert variant.precision_note
    assert (variant.coverage is not None) == variant.precision.startswith("int8")


def test_it_answers_as_its_source_does(exported, variant: Variant) -> None:
    if variant.format == "coreml":
        pytest.skip("Core ML runs on macOS alone; its program is parsed by another test")
    bundle = exported.bundle
    assert variant.path is not None
    inputs, expected = bundle.golden_inputs(), bundle.golden_logits(variant)
    sizes = (1, 3) if variant.batch is None else (variant.batch,)
    for size in sizes:
        answers = np.concatenate(
            [run(bundle.path(variant.path), variant, inputs[i : i + size]) for i in range(0, len(inputs), size)]
        )
        assert answers.shape == expected.shape
        assert answers.dtype == np.float32
        # PyTorch's int8 variants are held against their own int8 source. The others' int8 has no eager source and is
        # held against float32: relative to the spread of the logits, a step of the quantiser is about a hundredth.
        limit = {"fp32": 1e-4, "fp16": 2e-2}.get(variant.precision, 5e-2 if variant.engine else 2e-1)
        assert np.abs(answers - expected).max() < limit * np.abs(expected).max()


def test_it_says_what_it_is(exported, variant: Variant) -> None:
    if variant.format == "executorch":
        pytest.skip("a .pte has no place for metadata; the manifest has it")
    assert variant.path is not None
    metadata = read_metadata(exported.bundle.path(variant.path), variant)
    assert metadata is not None
    assert (metadata.variant_id, metadata.precision, metadata.engine) == (variant.id, variant.precision, variant.engine)
    assert (metadata.input_kind, metadata.output_kind) == (variant.input_kind, variant.output_kind)
    assert metadata.batch == variant.batch
    assert metadata.signature == exported.bundle.manifest.signature
    assert metadata.artifact_sha256 == exported.bundle.manifest.artifact_sha256


@pytest.mark.parametrize("variant_id", [plan.id for row, plan in PLANS if row.name == "coreml"])
def test_a_core_ml_program_parses(exported, variant_id: str) -> None:
    from coremltools.converters.mil.frontend.milproto.load import load
    from coremltools.models import MLModel

    variant = exported.bundle.variant(variant_id)
    path = exported.bundle.path(variant.path)
    spec = load_spec(path)
    model = MLModel(str(path), skip_model_load=True)
    program = load(spec, specification_version=spec.specificationVersion, file_weights_dir=model.weights_dir)
    kinds = [op.op_type for op in program.functions["main"].operations]
    assert kinds.count("conv") == 13
    compressed = {"int8-weights": "constexpr_affine_dequantize", "palette6": "constexpr_lut_to_dense"}
    compressed["palette4"] = "constexpr_lut_to_dense"
    if variant.precision in compressed:
        assert compressed[variant.precision] in kinds
    expected = {"fp32": "fp32"}.get(variant.precision, "fp16")
    first = next(op for op in program.functions["main"].operations if op.op_type == "conv")
    assert first.outputs[0].dtype.__name__ == expected


def test_a_core_ml_package_holds_its_program_and_weights_alone(exported) -> None:
    package = exported.bundle.path("model-coreml-fp16.mlpackage")
    assert {p.relative_to(package).as_posix() for p in package.rglob("*") if p.is_file()} == {
        "Manifest.json",
        "Data/com.apple.CoreML/model.mlmodel",
        "Data/com.apple.CoreML/weights/weight.bin",
    }


def test_the_image_classifier_has_its_labels_and_takes_an_image(exported) -> None:
    spec = load_spec(exported.bundle.path("model-coreml-fp16-image.mlpackage"))
    assert spec.description.input[0].type.WhichOneof("Type") == "imageType"
    assert spec.description.predictedFeatureName == "classLabel"
    outputs = {entry.name: entry.type.WhichOneof("Type") for entry in spec.description.output}
    assert outputs["classLabel"] == "stringType"
    assert "dictionaryType" in outputs.values()
    text = spec.SerializeToString()
    assert all(label.encode() in text for label in exported.bundle.manifest.signature.labels)


@pytest.mark.parametrize("variant_id", [plan.id for row, plan in PLANS if row.name in {"onnx", "coreml"}])
def test_no_path_of_this_machine_is_inside(exported, variant_id: str) -> None:
    path = exported.bundle.path(exported.bundle.variant(variant_id).path)
    data = b"".join(p.read_bytes() for p in ([path] if path.is_file() else path.rglob("*")) if p.is_file())
    assert str(Path(torch.__file__).parent).encode() not in data
    assert b"udacisense/models/build.py" not in data


def test_compressed_weights_are_smaller(exported) -> None:
    sizes = {v.id: v.file_bytes or 0 for v in exported.bundle.exported()}
    assert sizes["torchscript-int8-static-qnnpack"] < 0.6 * sizes["torchscript-fp32"]
    assert sizes["onnx-fp16"] < 0.6 * sizes["onnx-fp32"]
    assert sizes["onnx-int8-static"] < 0.7 * sizes["onnx-fp32"]
    assert sizes["coreml-palette4"] < sizes["coreml-palette6"] < sizes["coreml-int8-weights"] < sizes["coreml-fp16"]
