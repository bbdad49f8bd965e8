"""Faults planted in every kind of place; the ladder names the rung and the layer."""

from __future__ import annotations

import copy
import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from bundle_damage import copied
from exporter_faults import (
    CLASSIFIER,
    POINTWISE,
    OtherResize,
    Permuted,
    exchange_channels,
    file_of,
    forget_norm,
    other_activation,
    rewrite,
    scale_int8_linear,
    scale_weight,
    shift_zero_point,
)
from torch import nn

from exporters.bundle.manifest import Variant, plain
from exporters.bundle.open import Bundle, open_bundle
from exporters.bundle.reference import eager_source
from harness.verify.locate import worker
from harness.verify.locate.first_difference import first_difference
from harness.verify.locate.job import Found, LocateJob
from harness.verify.locate.reproducer import write_reproducer
from harness.verify.locate.run import locate
from harness.verify.locate.rungs import STEPS, Context, Rung, climb
from harness.verify.locate.trace import Layer, Trace, trace_eager
from harness.verify.options import VerifyOptions
from udacisense.base.records import Outcome, read_json, write_record
from udacisense.errors import InputError


@pytest.fixture(scope="module")
def whole(small_bundle: Path) -> Bundle:
    return open_bundle(small_bundle)


@pytest.fixture
def bundle(small_bundle: Path, tmp_path: Path) -> Bundle:
    return open_bundle(copied(small_bundle, tmp_path / "bundle"))


def located(bundle: Bundle, variant_id: str, folder: Path) -> Found:
    """Do the worker's work in this process."""
    folder.mkdir()
    np.save(folder / "inputs.npy", bundle.golden_inputs()[:16])
    variant = bundle.variant(variant_id)
    runner = {"torchscript": "torchscript", "ptl": "lite", "onnx": "onnxruntime", "coreml": "mil"}[variant.format]
    job = LocateJob(
        bundle=str(bundle.root),
        variant_id=variant_id,
        runner=runner,
        engine=variant.engine,
        threads=1,
        inputs_path=str(folder / "inputs.npy"),
        allow_factory=None,
    )
    write_record(folder / LocateJob.FILE_NAME, job)
    worker.main(folder)
    return read_json(Found, folder / "result.json")


PYTORCH_FAULTS = [
    ("torchscript-fp32", scale_weight, POINTWISE, "in features.3.1.0 (aten::"),
    ("ptl-fp32", exchange_channels, POINTWISE, "in features.3.1.0 (aten::"),
    ("ptl-fp32-xnnpack", scale_weight, POINTWISE, "in features.3.1.0 (prepacked::"),
    ("torchscript-fp32", forget_norm, POINTWISE, "in features.3.1.0 (aten::"),
    ("torchscript-fp32", OtherResize, "features.0.0", "before features.0.0, the first layer"),
    ("ptl-fp32", Permuted, CLASSIFIER, "after classifier.1, the last layer"),
    ("torchscript-fp32", other_activation, POINTWISE, "between features.3.0.0 and features.3.1.0"),
    ("ptl-int8-static-qnnpack", shift_zero_point, POINTWISE, "in features.3.1.0 (quantized::"),
    ("torchscript-int8-dynamic-qnnpack", scale_int8_linear, CLASSIFIER, "in classifier.1 (quantized::linear_dynamic"),
]


@pytest.mark.parametrize("case", PYTORCH_FAULTS, ids=[f"{i}-{f.__name__}" for i, f, _, _ in PYTORCH_FAULTS])
def test_faults_in_pytorch_files(
    bundle: Bundle, tmp_path: Path, case: tuple[str, Callable[[nn.Module], nn.Module | None], str, str]
) -> None:
    variant_id, fault, layer, where = case
    rewrite(bundle, variant_id, fault)
    found = located(bundle, variant_id, tmp_path / "work")
    assert found.rung is not None, found.rungs
    assert found.rung.startswith("the file in ")
    assert found.suspect is not None
    assert found.suspect.layer == layer, found.suspect.where
    assert where in found.suspect.where
    assert where in found.reason
    assert len(found.worst_inputs) == 4


def test_a_dropout_that_was_left_on(bundle: Bundle, tmp_path: Path) -> None:
    model = eager_source(bundle, bundle.variant("torchscript-fp32"))
    model.classifier[0].p = 0.3
    model.classifier[0].train()
    example = torch.from_numpy(bundle.golden_inputs()[:1])
    torch.jit.trace(model, example, check_trace=False).save(str(file_of(bundle, "torchscript-fp32")))
    found = located(bundle, "torchscript-fp32", tmp_path / "work")
    assert found.suspect is not None
    assert found.suspect.where == "between features.6.1.0 and classifier.1"
    assert "another answer each time" in found.reason


def edit_onnx(bundle: Bundle, edit: Callable[[object], None]) -> None:
    import onnx

    path = file_of(bundle, "onnx-fp32")
    model = onnx.load(path)
    edit(model.graph)
    onnx.save(model, path)


def initializer(graph: object, index: int, *, ndim: int) -> object:
    return [t for t in graph.initializer if len(t.dims) == ndim][index]  # type: ignore[attr-defined]


def onnx_weight_channels(graph: object) -> None:
    from onnx import numpy_helper

    tensor = initializer(graph, 3, ndim=4)
    values = numpy_helper.to_array(tensor).copy()
    values[[0, 1]] = values[[1, 0]]
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def onnx_last_bias(graph: object) -> None:
    from onnx import numpy_helper

    gemm = graph.node[-1]  # type: ignore[attr-defined]
    assert gemm.op_type == "Gemm"
    tensor = next(t for t in graph.initializer if t.name == gemm.input[2])  # type: ignore[attr-defined]
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + 0.5, tensor.name))


def onnx_activation(graph: object) -> None:
    relus = [n for n in graph.node if n.op_type == "Relu"]  # type: ignore[attr-defined]
    relus[4].op_type = "Softplus"


@pytest.mark.parametrize(
    ("edit", "where"),
    [
        (onnx_weight_channels, "in features."),
        (onnx_last_bias, "in classifier.1 (Gemm"),
        (onnx_activation, "between features.2.1.0 and features.3.0.0"),
    ],
)
def test_faults_in_onnx_files(bundle: Bundle, tmp_path: Path, edit: Callable[[object], None], where: str) -> None:
    edit_onnx(bundle, edit)
    found = located(bundle, "onnx-fp32", tmp_path / "work")
    assert found.rung == "the file in onnxruntime"
    assert found.suspect is not None
    assert where in found.suspect.where


@pytest.mark.parametrize("variant_id", ["coreml-fp32", "coreml-fp16"])
def test_a_fault_in_a_core_ml_weight(bundle: Bundle, tmp_path: Path, variant_id: str) -> None:
    """The classifier's weights, found by their bytes in the package's own weight file, are scaled."""
    state = eager_source(bundle, bundle.variant("coreml-fp32")).state_dict()
    weight = state[f"{CLASSIFIER}.weight"].numpy()
    weight = weight.astype(np.float16) if variant_id.endswith("fp16") else weight
    blob = file_of(bundle, variant_id) / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
    data = blob.read_bytes()
    assert data.count(weight.tobytes()) == 1
    blob.write_bytes(data.replace(weight.tobytes(), (weight * weight.dtype.type(1.5)).tobytes()))
    found = located(bundle, variant_id, tmp_path / "work")
    assert found.rung == "the file in mil"
    assert found.suspect is not None
    assert found.suspect.layer == CLASSIFIER
    assert "in classifier.1 (linear" in found.suspect.where


def test_a_whole_bundle_has_nothing_to_locate(whole: Bundle, tmp_path: Path) -> None:
    for variant_id in ("torchscript-fp32", "ptl-fp32-xnnpack", "onnx-fp32", "coreml-fp16"):
        found = located(whole, variant_id, tmp_path / variant_id)
        assert found.rung is None, found.reason
        assert found.suspect is None
        assert all(r.outcome is Outcome.PASSED for r in found.rungs)
    assert [r.name for r in found.rungs] == ["eager", "fused", "traced", "frozen", "the file in mil"]


def in_faulty_step(whole: Bundle, folder: Path, variant_id: str, name: str, step: Callable) -> Found:
    """Climb with one step replaced by a faulty one."""
    folder.mkdir()
    variant = whole.variant(variant_id)
    images = torch.from_numpy(whole.golden_inputs()[:8])
    context = Context(bundle=whole, variant=variant, example=images[:1], allow_factory=None)
    rungs = climb(context, images, steps={**STEPS, name: step})
    errors, broken = worker.judge_rungs(rungs, variant)
    assert broken is not None
    job = LocateJob(
        bundle="", variant_id=variant_id, runner="", engine=None, threads=1, inputs_path="", allow_factory=None
    )
    case = worker.Case(job=job, variant=variant, path=folder, images=images, folder=folder)
    return worker.in_rung(case, rungs[: broken + 1], errors)


def fuse_without_bias(model: nn.Module, context: Context) -> nn.Module | None:
    fused = STEPS["fused"](model, context)
    assert fused is not None
    with torch.no_grad():
        fused.get_submodule(POINTWISE).bias.zero_()
    return fused


def trace_of_another(model: nn.Module, context: Context) -> nn.Module | None:
    faulty = copy.deepcopy(model)
    scale_weight(faulty)
    return STEPS["traced"](faulty, context)


def optimise_of_another(_: nn.Module, context: Context) -> nn.Module | None:
    model = STEPS["eager"](nn.Identity(), context)
    assert model is not None
    exchange_channels(model)
    frozen = STEPS["frozen"](STEPS["traced"](model, context) or model, context)
    return STEPS["mobile-optimised"](frozen or model, context)


@pytest.mark.parametrize(
    ("name", "step"),
    [("fused", fuse_without_bias), ("traced", trace_of_another), ("mobile-optimised", optimise_of_another)],
)
def test_faults_on_the_way_to_the_file(whole: Bundle, tmp_path: Path, name: str, step: Callable) -> None:
    finding = in_faulty_step(whole, tmp_path / "work", "ptl-fp32-xnnpack", name, step)
    assert finding.rung == name
    assert finding.suspect is not None
    assert finding.suspect.layer == POINTWISE, finding.suspect.where
    assert (tmp_path / "work" / "rung.pt").exists()


def reproduced(folder: Path, where: Path) -> subprocess.CompletedProcess[str]:
    script = [sys.executable, str(folder / "reproduce.py")]
    return subprocess.run(script, capture_output=True, text=True, check=False, cwd=where)


HOSTILE = '''"""
open("ran", "w")  # \'\'); open("ran", "w")'''


def test_a_name_out_of_a_bundle_is_never_run(tmp_path: Path) -> None:
    """An id, a reason and a file's name that are Python code; a file called like a module that the script imports."""
    work, out = tmp_path / "work", tmp_path / "out"
    work.mkdir()
    for name in ("inputs", "expected", "got"):
        np.save(work / f"{name}.npy", np.zeros((1, 3, 8, 8), np.float32))
    file = tmp_path / "numpy.py"
    file.write_text("open('ran', 'w')")
    variant = dataclasses.replace(plain(HOSTILE, "onnx"), engine=HOSTILE)
    found = Found(
        schema_version=1,
        variant_id=HOSTILE,
        runner="onnxruntime",
        rungs=(),
        rung="the file in onnxruntime",
        suspect=None,
        reason=HOSTILE,
        worst_inputs=(0,),
    )
    write_reproducer(out, work, found, variant, file)
    done = reproduced(out, tmp_path)
    assert HOSTILE in done.stdout, done.stderr
    assert not list(tmp_path.rglob("ran"))


def test_a_reproducer_shows_the_fault_on_its_own(bundle: Bundle, tmp_path: Path) -> None:
    rewrite(bundle, "torchscript-fp32", scale_weight)
    out = tmp_path / "reproducer"
    found = locate(bundle, "torchscript-fp32", VerifyOptions(), out=out)
    assert found.rung == "the file in torchscript"
    assert {p.name for p in out.iterdir()} == {
        "inputs.npy",
        "expected.npy",
        "got.npy",
        "located.json",
        "model.pt",
        "reproduce.json",
        "reproduce.py",
    }
    done = reproduced(out, tmp_path)
    assert done.returncode == 0, done.stderr
    got, expected = (np.load(out / f"{name}.npy", allow_pickle=False) for name in ("got", "expected"))
    assert str(np.abs(got - expected).max(axis=1))[:6] in done.stdout
    with pytest.raises(InputError, match="is not empty"):
        locate(bundle, "torchscript-fp32", VerifyOptions(), out=out)


def test_a_file_that_would_not_load_is_the_rung(bundle: Bundle, tmp_path: Path) -> None:
    path = file_of(bundle, "ptl-fp32")
    path.write_bytes(path.read_bytes()[:2000])
    found = locate(bundle, "ptl-fp32", VerifyOptions(), out=tmp_path / "out")
    assert found.rung == "the file in lite"
    assert "would not load" in found.reason
    assert (tmp_path / "out" / "model.ptl").exists()


@pytest.mark.parametrize(
    ("variant_id", "runner", "words"),
    [
        ("executorch-fp32", None, "has no file"),
        ("ptl-fp32", "mil", "not by 'mil'"),
        ("nothing", None, "has no variant"),
    ],
)
def test_bad_questions_are_refused(whole: Bundle, variant_id: str, runner: str | None, words: str) -> None:
    with pytest.raises(InputError, match=words):
        locate(whole, variant_id, VerifyOptions(runners=(runner,) if runner else ()))


def layer(name: str, outputs: float, inputs: float = 1.0) -> Layer:
    return Layer(name, "conv", np.full((1, 2), inputs, np.float32), np.full((1, 2), outputs, np.float32))


def test_values_that_are_not_finite_are_a_difference() -> None:
    good = Trace((layer("a", 1), layer("b", 2)), np.ones((1, 2), np.float32))
    bad = Trace((layer("a", float("nan")), layer("b", 2)), np.ones((1, 2), np.float32))
    assert first_difference(good, bad, 1e-3).where == "in a (conv a)"
    assert first_difference(good, good, 1e-3).where == "after b, the last layer"


def test_another_structure_is_named() -> None:
    two, one = (Trace(tuple(layer(n, 1) for n in names), np.ones((1, 2), np.float32)) for names in ("ab", "a"))
    found = first_difference(two, one, 1e-3)
    assert "1 convolutions and linear layers where the source has 2" in found.where
    assert found.layer == "b"


def test_eager_layers_include_their_norm() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    nn.init.uniform_(norm.weight)
    model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), norm, nn.ReLU(inplace=True)).eval()
    images = torch.randn(1, 3, 4, 4)
    (found,) = trace_eager(model, images).layers
    with torch.no_grad():
        np.testing.assert_array_equal(found.outputs, norm(model[0](images)).numpy())


def test_rungs_are_those_that_the_variant_has(whole: Bundle) -> None:
    images = torch.from_numpy(whole.golden_inputs()[:1])

    def rungs(variant: Variant) -> list[Rung]:
        torch.backends.quantized.engine = "qnnpack"
        return climb(Context(bundle=whole, variant=variant, example=images, allow_factory=None), images)

    assert [r.name for r in rungs(whole.variant("ptl-int8-static-qnnpack"))] == [
        "eager",
        "fused",
        "quantised",
        "traced",
        "frozen",
        "saved and loaded",
    ]
    pixels = dataclasses.replace(whole.variant("onnx-fp32"), output_kind="probabilities")
    assert rungs(pixels)[-1].outputs.sum(axis=1) == pytest.approx(1.0)
