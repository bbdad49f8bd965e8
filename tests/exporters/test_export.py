"""One export: options, failures that stay where they are, repeatable bytes, nothing half-written."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import psutil
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import load_file
from training_cases import CLASSES, SIZE_PX, batches, dataset, tiny_spec, trained_like

from exporters.bundle.manifest import Manifest
from exporters.bundle.open import check_bundle, open_bundle
from exporters.bundle.reference import eager_source
from exporters.export import export_bundle
from exporters.formats.contract import ExportOptions
from exporters.formats.table import FORMATS
from exporters.source import ExportSource, source_from_artifact, source_from_factory
from harness.runners.mil.program import read_program
from udacisense.base.files import sha256_path
from udacisense.base.records import Outcome
from udacisense.cli.main import run
from udacisense.errors import InputError
from udacisense.pipeline import OptimizationPipeline
from udacisense.stages import apply_quantization_aware_training
from udacisense.stages.recipe import recipe_sha256
from udacisense.zoo.table import zoo_folder

FACTORIES = """
import os, torch
from torch import nn

class Refuses(nn.Module):
    '''Falls in one format alone, and takes its process with it.'''
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3 * 16 * 16, 4)
    def forward(self, x):
        if torch.onnx._globals.GLOBALS.in_onnx_export:  # and no question that the check asks beforehand
            os.abort()
        return self.linear(x.flatten(1))

def refuses():
    return Refuses()

def branches():
    class Branches(Refuses):
        def forward(self, x):
            return super().forward(x if x.abs().max() < 100 else 2 * x)
    return Branches()

def convolutions():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "their_models.py").write_text(FACTORIES)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "their_models"
    sys.modules.pop("their_models", None)


@pytest.mark.slow
def test_every_byte_is_repeated_where_the_manifest_says_so(exported, tmp_path: Path) -> None:
    export_bundle(exported.source, tmp_path / "again", ExportOptions(calibration=32), zip=True)
    again = open_bundle(tmp_path / "again")
    first = exported.bundle.manifest
    assert (tmp_path / "again.zip").is_file()
    promised = [v for v in first.variants if v.deterministic]
    assert {v.format for v in promised} >= {"torchscript", "ptl", "onnx", "coreml"}
    for variant in promised:
        assert again.variant(variant.id).sha256 == variant.sha256, variant.id
    other = {file.path: file.sha256 for file in again.manifest.files}
    for file in first.files:
        if not file.path.startswith("model-"):
            assert other[file.path] == file.sha256, file.path


def test_inspect_names_the_files_whose_bytes_may_differ(exported, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(exported.bundle.root)]) == 0
    told = capsys.readouterr().out
    line = told[told.index("not the same bytes from export to export") :]
    varying = {v.id for v in exported.bundle.manifest.variants if v.path and v.path.endswith(".ort")}
    assert varying
    for variant in exported.bundle.manifest.variants:
        assert (f" {variant.id}" in line.replace(",", "")) == (variant.id in varying), variant.id


def test_a_format_that_crashes_leaves_the_others_whole(factories: str, tmp_path: Path) -> None:
    source = source_from_factory(f"{factories}:refuses", (1, 3, 16, 16), None)
    options = ExportOptions(formats=("ptl", "onnx"), precisions=("fp32",))
    manifest = export_bundle(source, tmp_path / "bundle", options)
    outcomes = {v.id: v for v in manifest.variants}
    assert outcomes["ptl-fp32"].outcome is Outcome.PASSED
    assert outcomes["onnx-fp32"].outcome is Outcome.FAILED
    assert "SIGABRT" in outcomes["onnx-fp32"].reason
    assert outcomes["onnx-fp32"].path is None
    assert check_bundle(tmp_path / "bundle") == []
    assert {p.name for p in (tmp_path / "bundle").iterdir()} == {
        "golden",
        "labels.txt",
        "manifest.json",
        "reference",
        "model-ptl-fp32.ptl",
        "model-ptl-fp32-xnnpack.ptl",
    }


def test_a_model_that_cannot_be_traced_says_so(factories: str, tmp_path: Path, fp32_ptl: ExportOptions) -> None:
    source = source_from_factory(f"{factories}:branches", (1, 3, 16, 16), None)
    manifest = export_bundle(source, tmp_path / "bundle", fp32_ptl)
    variant = manifest.variants[0]
    assert variant.outcome is Outcome.FAILED
    assert "froze a decision on the input's values, at their_models.py:" in variant.reason


def test_a_network_that_answers_in_billions_is_prepacked(
    their: Callable[[str], str], tmp_path: Path, fp32_ptl: ExportOptions
) -> None:
    code = """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                torch.manual_seed(0)
                self.conv, self.head = nn.Conv2d(3, 16, 3), nn.Linear(16, 10)
                nn.init.normal_(self.head.weight, std=1e10)
                nn.init.zeros_(self.head.bias)

            def forward(self, x):
                seen = F.relu(self.conv(x)).mean((2, 3))
                turned = F.linear(seen.flip(1), self.head.weight[:1].flip(1))
                answers = self.head(seen)
                return torch.cat([answers[:, :1] - turned, answers[:, 1:]], 1)  # the first is nothing but rounding


        def build():
            return Net()
        """
    manifest = export_bundle(source_from_factory(their(code), (1, 3, 16, 16), None), tmp_path / "bundle", fp32_ptl)
    assert {v.reason for v in manifest.variants if v.id == "ptl-fp32-xnnpack"} == {None}


def test_what_cannot_be_is_skipped_with_its_reason(factories: str, tmp_path: Path) -> None:
    source = source_from_factory(f"{factories}:convolutions", (1, 3, 16, 16), None)
    options = ExportOptions(formats=("ptl", "onnx"), precisions=("int8-dynamic", "int8-static"))
    manifest = export_bundle(source, tmp_path / "bundle", options)
    assert {v.outcome for v in manifest.variants} == {Outcome.SKIPPED}
    assert {(v.precision, v.reason) for v in manifest.variants} == {
        ("int8-dynamic", "Dynamic int8 is for linear layers, and this model has none."),
        ("int8-static", "Static int8 needs real images for its calibration; give a data set with --data."),
    }


def test_a_format_that_hangs_is_ended(source: ExportSource, tmp_path: Path, fp32_ptl: ExportOptions) -> None:
    options = dataclasses.replace(fp32_ptl, timeout_s=0.01)
    manifest = export_bundle(source, tmp_path / "bundle", options)
    assert all(v.outcome is Outcome.FAILED and "within the time limit of 0.01 s" in v.reason for v in manifest.variants)


def test_normalisation_and_softmax_go_into_the_graph(source: ExportSource, tmp_path: Path) -> None:
    options = ExportOptions(formats=("onnx",), precisions=("fp32",), normalize=True, softmax=True, batch=2)
    export_bundle(source, tmp_path / "bundle", options)
    bundle = open_bundle(tmp_path / "bundle")
    variant = bundle.variant("onnx-fp32")
    assert (variant.input_kind, variant.output_kind, variant.batch) == ("pixels", "probabilities", 2)
    import onnxruntime

    session = onnxruntime.InferenceSession(str(bundle.path(variant.path)))
    assert session.get_inputs()[0].shape == [2, 3, 32, 32]
    pixels = source.golden.pixels[:2].numpy().astype(np.float32)
    answer = session.run(None, {"input": pixels})[0]
    np.testing.assert_allclose(answer.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(answer, bundle.golden_logits(variant)[:2], atol=1e-4)
    import torch

    with torch.no_grad():
        eager = eager_source(bundle, variant)(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(answer, eager, atol=1e-4)


def test_an_export_that_is_killed_leaves_nothing_that_looks_whole(
    exported, tmp_path: Path, source: ExportSource, fp32_ptl: ExportOptions
) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from exporters.export import export_bundle\n"
        "from exporters.formats.contract import ExportOptions\n"
        "from exporters.bundle.open import open_bundle\n"
        "from exporters.bundle.reference import load_reference\n"
        "from exporters.source import make_source\n"
        "model, reference = load_reference(open_bundle(Path(sys.argv[1])))\n"
        "source = make_source(name='tiny', model=model, spec=reference.model,\n"
        "                     signature=reference.signature, dataset=None)\n"
        "export_bundle(source, Path(sys.argv[2]), ExportOptions(formats=('ptl', 'onnx')))\n"
    )
    target = tmp_path / "bundle"
    parent = subprocess.Popen([sys.executable, "-c", code, str(exported.bundle.root), str(target)])
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".bundle.partial-*/.work/*/*.started")):
        assert parent.poll() is None, "the export ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    workers = psutil.Process(parent.pid).children(recursive=True)
    assert workers
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    assert not target.exists()
    # The workers notice that their parent is gone.
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive
    export_bundle(source, target, fp32_ptl)
    assert check_bundle(target) == []
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"], "what the killed export left is still there"


def test_a_bundle_is_replaced_and_anything_else_is_not(
    source: ExportSource, tmp_path: Path, fp32_ptl: ExportOptions
) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="not empty"):
        export_bundle(source, target, fp32_ptl)
    assert (target / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 0}, "batch is 0"),
        ({"opset": 12}, "opset is 12"),
        ({"calibration": 0}, "calibration images is 0"),
        ({"engines": ("cuda",)}, "engine 'cuda'"),
        ({"formats": ("safetensors",)}, "safetensors"),
        ({"formats": ("ptl",), "precisions": ("fp16",)}, "None of the formats ptl has the precision fp16"),
    ],
)
def test_options_out_of_range_are_named(
    source: ExportSource, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        export_bundle(source, tmp_path / "bundle", ExportOptions(**change))
    assert list(tmp_path.iterdir()) == []


def test_the_manifest_reads_back_as_it_was_written(exported) -> None:
    from udacisense.base.records import from_json, to_json

    manifest = exported.bundle.manifest
    assert from_json(Manifest, to_json(manifest), source="test") == manifest
    assert manifest.files == tuple(sorted(manifest.files, key=lambda file: Path(file.path).parts))
    assert sha256_path(exported.bundle.root / "reference/model.safetensors") == manifest.artifact_sha256


def test_with_photos_all_formats_share_the_recipe_that_is_calibrated_on_them(exported) -> None:
    told = {v.id: v.options for v in exported.bundle.exported() if v.precision == "int8-static"}
    of_fbgemm = told.pop("torchscript-int8-static-fbgemm")
    same = ("torchscript-int8-static-qnnpack", "ptl-int8-static-qnnpack", "onnx-int8-static", "ort-int8-static")
    assert set(same) <= set(told)
    assert {options["calibration_images"] for options in told.values()} == {32}
    (recipe,) = {options["recipe"] for options in told.values()}
    assert recipe not in {None, of_fbgemm["recipe"]}


@pytest.mark.slow
def test_without_photos_onnx_int8_has_the_numbers_of_the_recipe_that_came_with_the_model(tmp_path: Path) -> None:
    options = ExportOptions(formats=("torchscript", "onnx"), precisions=("int8-static",), engines=("qnnpack",))
    made = export_bundle(source_from_artifact(Path("tiny"), None), tmp_path / "bundle", options)
    assert all(variant.outcome is Outcome.PASSED for variant in made.variants), [v.reason for v in made.variants]
    assert len({variant.options["recipe"] for variant in made.variants}) == 1
    path, recipe = (
        tmp_path / "bundle/model-onnx-int8-static.onnx",
        zoo_folder("tiny") / "static-int8-qnnpack.safetensors",
    )
    held = [numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer]
    scales = sorted(float(value) for value in held if value.dtype == np.float32 and value.ndim == 0)
    wanted = sorted(float(p[0]) for name, p in load_file(recipe).items() if name.startswith("activation"))
    np.testing.assert_allclose(sorted(set(scales)), wanted, rtol=1e-6)
    assert sum(value.dtype == np.int8 and value.ndim > 1 for value in held) == 20  # every layer
    bundle = open_bundle(tmp_path / "bundle")
    plainly = onnxruntime.SessionOptions()
    plainly.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, plainly, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: bundle.golden_inputs()})
    own = bundle.golden_logits(bundle.variant("torchscript-int8-static-qnnpack"))
    assert (logits.argmax(axis=1) == own.argmax(axis=1)).mean() > 0.9


@pytest.mark.slow
def test_core_mls_static_int8_has_the_numbers_of_the_recipe_from_ios_17_on(tmp_path: Path) -> None:
    options = ExportOptions(formats=("coreml",), precisions=("int8-static",), minimum_deployment_target="iOS17")
    assert not FORMATS["coreml"].plans(dataclasses.replace(options, minimum_deployment_target="iOS16"))
    made = export_bundle(source_from_artifact(Path("tiny"), None), tmp_path / "bundle", options)
    (variant,) = made.variants
    recipe = load_file(zoo_folder("tiny") / "static-int8-qnnpack.safetensors")
    assert (variant.outcome, variant.options["recipe"]) == (Outcome.PASSED, recipe_sha256(recipe)), variant.reason
    assert variant.coverage is not None
    assert variant.coverage.modules_int8 == 20
    program = read_program(tmp_path / "bundle" / str(variant.path))
    quantizers = [step.arguments for step in program.steps if step.operator == "quantize"]
    numbers = [step.arguments["scale"] for step in program.steps if step.operator in {"quantize", "dequantize"}]
    pairs = [pair for name, pair in recipe.items() if name.startswith("activation")]
    # Around an addition coremltools divides scales by one of the terms', which changes nothing.
    assert {np.float16(pair[0]) for pair in pairs} <= {np.float16(scale) for scale in numbers}
    # int8 with the zero point -128 it lets be uint8 without one.
    zeros = {int(a.get("zero_point", 0)) + 128 * (a["output_dtype"] == "int8") for a in quantizers}
    assert zeros == {int(pair[1]) for pair in pairs}
    bundle = open_bundle(tmp_path / "bundle")
    images = torch.from_numpy(bundle.golden_inputs())
    answers = torch.cat([program.evaluate(image) for image in images.split(1)])
    assert (answers.argmax(1).numpy() == bundle.golden_logits().argmax(1)).mean() > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["fbgemm", "qnnpack"])
def test_every_file_of_a_network_that_learned_with_rounding_has_its_numbers(engine: str, tmp_path: Path) -> None:
    model, images = trained_like(tiny_spec()), dataset()
    pipeline = OptimizationPipeline(
        "mine", model, batches(), batches(), CLASSES, SIZE_PX, spec=tiny_spec(), data_fingerprint="colours"
    )
    pipeline.add_step(
        step_name="qat", step_function=apply_quantization_aware_training, engine=engine, epochs=1, max_float_blocks=0
    ).run(output_dir=tmp_path)
    options = ExportOptions(formats=("torchscript", "onnx"), precisions=("int8-static",), engines=("qnnpack",))
    made = export_bundle(source_from_artifact(tmp_path / "artifact", images), tmp_path / "bundle", options)
    told = [(v.outcome, v.options["method"], v.options["calibration_images"]) for v in made.variants]
    assert told == [(Outcome.PASSED, "qat", None)] * 3  # .ort too
    assert len({v.options["recipe"] for v in made.variants}) == 1
    graph = torch.jit.load(tmp_path / "bundle/model-torchscript-int8-static-qnnpack.pt").graph
    int8 = [n for n in graph.nodes() if n.kind().startswith("quantized::") or n.kind() == "aten::quantize_per_tensor"]
    given = {str(v.debugName()): v.toIValue() for node in int8 for v in node.inputs()}
    in_torch = {round(float(v), 9) for v in given.values() if isinstance(v, float | torch.Tensor) and 0 < float(v) < 1}
    held = onnx.load(tmp_path / "bundle/model-onnx-int8-static.onnx").graph.initializer
    numbers = [numpy_helper.to_array(tensor) for tensor in held]
    in_onnx = {round(float(v), 9) for v in numbers if v.dtype == np.float32 and v.ndim == 0}
    recipe = load_file(tmp_path / f"artifact/static-int8-{engine}.safetensors")
    kept = {round(float(pair[0]), 9) for name, pair in recipe.items() if name.startswith("activation")}
    assert in_torch < in_onnx == kept
    assert len(kept - in_torch) == 1  # PyTorch's mean keeps the scale of what it is taken of
    by_channel = {tuple(v.tolist()) for v in numbers if v.dtype == np.float32 and v.ndim == 1}
    assert {tuple(v.tolist()) for name, v in recipe.items() if name.startswith("scales:")} <= by_channel
