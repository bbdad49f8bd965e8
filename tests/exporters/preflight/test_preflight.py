from __future__ import annotations

import dataclasses
import functools
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from exporters.preflight import lite_facts
from exporters.preflight import run as module
from exporters.preflight.lite_facts import read_lite
from exporters.preflight.run import (
    COREML_TARGETS,
    LITE_RUNTIMES,
    ONNX_RUNTIMES,
    PreflightReport,
    backport_lite,
    lite_operators,
    preflight,
)
from udacisense.base import child
from udacisense.base.records import Outcome
from udacisense.errors import InputError, LoadError

PTL = ("model-ptl-fp32.ptl", "model-ptl-fp32-xnnpack.ptl", "model-ptl-int8-dynamic-qnnpack.ptl")


# One process for each file: three runtimes ask the same of it.
read_once = functools.cache(read_lite)


def failed(report: PreflightReport) -> dict[str, str]:
    return {c.name: f"{c.found} | {c.fix}" for c in report.checks if c.outcome is Outcome.FAILED}


@pytest.mark.parametrize("runtime", LITE_RUNTIMES)
@pytest.mark.parametrize("name", [*PTL, "model-ptl-int8-static-qnnpack.ptl"])
def test_what_we_export_runs_on_every_release_in_the_field(
    exported, name: str, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "read_lite", read_once)
    report = preflight(exported.bundle.root / name, runtime=runtime)
    assert failed(report) == {}
    assert report.verdict is Outcome.PASSED
    found = {c.name: c.found for c in report.checks}
    assert found["bytecode version"] == "8"
    assert found["quantised engine"] == ("qnnpack" if "int8" in name else "none needed")
    assert "3 × 32 × 32" in found["input shape"]


def test_a_bytecode_that_is_too_new_has_a_fix_that_works(
    exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = dataclasses.replace(LITE_RUNTIMES["2.1.0"], bytecode=(4, 6))
    monkeypatch.setitem(module.LITE_RUNTIMES, "older", older)
    path, target = exported.bundle.root / PTL[0], tmp_path / "older.ptl"
    report = preflight(path, runtime="older")
    assert report.verdict is Outcome.FAILED
    assert "--backport" in failed(report)["bytecode version"]
    assert backport_lite(path, target, runtime="older") == 6
    assert read_lite(target).bytecode_version == 6
    from torch.jit.mobile import _load_for_lite_interpreter

    inputs = torch.from_numpy(exported.bundle.golden_inputs())
    first, second = (_load_for_lite_interpreter(str(p))(inputs) for p in (path, target))
    assert torch.equal(first, second)
    with pytest.raises(InputError, match="nothing to backport"):
        backport_lite(path, tmp_path / "same.ptl", runtime="2.1.0")


def test_an_operator_that_the_runtime_lacks_is_named(tmp_path: Path) -> None:
    class Attention(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.scaled_dot_product_attention(x, x, x)

    path = tmp_path / "new.ptl"
    torch.jit.script(Attention())._save_for_lite_interpreter(str(path))
    assert "aten::scaled_dot_product_attention" in failed(preflight(path, runtime="1.12.2"))["operators"]
    # 2.1.0 has the operator, but with fewer arguments than the file passes, or the file is fine.
    known = lite_operators(LITE_RUNTIMES["2.1.0"].column)
    assert known["aten::scaled_dot_product_attention"] >= 6
    assert "aten::scaled_dot_product_attention" not in lite_operators(LITE_RUNTIMES["1.12.2"].column)


def test_weights_for_a_desktop_engine_are_refused(exported, tmp_path: Path) -> None:
    import json

    import torch.jit

    from exporters.bundle.metadata import EXTRA_FILE, metadata_text, read_extra_file

    metadata = read_extra_file(exported.bundle.root / PTL[2])
    assert metadata is not None
    text = metadata_text(dataclasses.replace(metadata, engine="fbgemm", batch=8))
    assert json.loads(text)["engine"] == "fbgemm"
    scripted = torch.jit.load(str(exported.bundle.root / "model-torchscript-int8-dynamic-fbgemm.pt"))
    scripted._save_for_lite_interpreter(str(tmp_path / "x.ptl"), _extra_files={EXTRA_FILE: text})
    problems = failed(preflight(tmp_path / "x.ptl"))
    assert "--engine qnnpack" in problems["quantised engine"]
    assert "--batch" in problems["input shape"]


@pytest.mark.parametrize("kind", ["cut", "text", "empty", "zip"])
def test_a_damaged_file_is_one_sentence(exported, tmp_path: Path, kind: str) -> None:
    whole = (exported.bundle.root / PTL[0]).read_bytes()
    import io

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x/version", "3")
    content = {"cut": whole[: len(whole) // 2], "text": b"not a model", "empty": b"", "zip": buffer.getvalue()}[kind]
    path = tmp_path / "bad.ptl"
    path.write_bytes(content)
    with pytest.raises(LoadError, match=r"bad\.ptl.*again\.") as caught:
        preflight(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["bad.onnx", "bad.ort", "bad.mlpackage"])
def test_a_damaged_file_of_the_other_formats_is_one_sentence(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("mlpackage"):
        path.mkdir()
    else:
        path.write_bytes(b"\x08\x07garbage" * 40)
    with pytest.raises(LoadError, match=name.replace(".", r"\.")) as caught:
        preflight(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\x08\x07garbage"])
def test_a_file_that_is_named_like_a_core_ml_package_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mlpackage").write_bytes(content)
    with pytest.raises(LoadError, match="which is a folder"):
        preflight(tmp_path / "a.mlpackage")


@pytest.mark.slow
def test_an_ort_file_that_crashes_onnxruntime_is_one_sentence(exported, tmp_path: Path) -> None:
    import onnxruntime.tools.ort_format_model.types  # noqa: F401 - makes the schema importable
    from ort_flatbuffers_py.fbs.InferenceSession import InferenceSession as Schema

    whole = (exported.bundle.root / "model-ort-int8-static.ort").read_bytes()
    # Four zeros where a value's fields are found: it has none then, not even the name that onnxruntime reads unasked.
    at = Schema.GetRootAsInferenceSession(whole, 0).Model().Graph().NodeArgs(0)._tab.Pos
    path = tmp_path / "bad.ort"
    path.write_bytes(whole[:at] + bytes(4) + whole[at + 4 :])
    # In a process of its own: were it read there, this one would die with it.
    command = [sys.executable, "-c", "from udacisense.cli.main import main; main()", "preflight", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == LoadError.exit_code, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {path} could not be read: its process ended with signal 11 (SIGSEGV)")
    assert line.endswith("export or copy it again.")


def test_a_file_that_keeps_its_reader_busy_is_one_sentence(
    exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "READ_S", 0.001)
    monkeypatch.setattr(child, "_forges", [])  # a child that starts afresh is not that quick
    root, target = exported.bundle.root, tmp_path / "older.ptl"
    for name in ("model-ort-fp32.ort", "model-ptl-fp32.ptl"):  # whole files of their kind, and not called another
        with pytest.raises(LoadError, match=rf"{name} could not be read: no answer within .* again\."):
            preflight(root / name)
    target.write_bytes(b"kept")
    with pytest.raises(LoadError, match=r"cannot be written as bytecode 5 \(no answer within the time limit"):
        lite_facts.backport(root / "model-ptl-fp32.ptl", target, 5)
    assert target.read_bytes() == b"kept"
    assert [path.name for path in tmp_path.iterdir()] == ["older.ptl"]


def test_a_backport_that_fails_leaves_what_was_there(exported, tmp_path: Path) -> None:
    target = tmp_path / "older.ptl"
    target.write_bytes(b"kept")
    with pytest.raises(LoadError, match="cannot be written as bytecode 2"):
        lite_facts.backport(exported.bundle.root / "model-ptl-fp32.ptl", target, 2)
    assert target.read_bytes() == b"kept"


def test_onnx_is_held_against_opset_and_ir(exported, monkeypatch: pytest.MonkeyPatch) -> None:
    path = exported.bundle.root / "model-onnx-fp32.onnx"
    assert preflight(path).verdict is Outcome.PASSED
    older = dataclasses.replace(ONNX_RUNTIMES["1.16.3"], opset_max=15, ir_max=7)
    monkeypatch.setitem(module.ONNX_RUNTIMES, "older", older)
    problems = failed(preflight(path, runtime="older"))
    assert problems["opset"].startswith("17 | export with an --opset of that range (up to 15)")
    assert set(problems) == {"opset", "IR version"}


def test_the_reduced_package_takes_ort_files_of_its_operators_alone(exported) -> None:
    root = exported.bundle.root
    assert set(failed(preflight(root / "model-onnx-fp32.onnx", runtime="mobile-1.18.0"))) == {"file format"}
    assert failed(preflight(root / "model-ort-fp32.ort", runtime="mobile-1.18.0")) == {}
    int8 = failed(preflight(root / "model-ort-int8-static.ort", runtime="mobile-1.18.0"))
    assert "QGemm" in int8["operators"]
    assert "onnxruntime-android" in int8["operators"]
    half = failed(preflight(root / "model-ort-fp16.ort", runtime="mobile-1.18.0"))
    assert set(half) == {"element types"}, "its kernels take float and 8-bit tensors alone"
    assert "MLFloat16" in half["element types"]
    assert failed(preflight(root / "model-ort-fp16.ort")) == {}, "the full package takes half precision"


@pytest.mark.parametrize(
    ("name", "damage", "why"),
    [
        ("Data/com.apple.CoreML/weights/weight.bin", None, r"lacks weights, in .*weight\.bin: it is missing"),
        ("Data/com.apple.CoreML/weights/weight.bin", b"cut", r"lacks weights, .*: it holds 3 of"),
        ("Manifest.json", None, "its Manifest.json is missing"),
        ("Manifest.json", b'{"itemInfoEntries": {}}', "its Manifest.json is not whole"),
        ("Data/com.apple.CoreML/model.mlmodel", None, "its Data/com.apple.CoreML/model.mlmodel is missing"),
    ],
)
def test_a_core_ml_package_that_is_not_whole_is_refused(
    exported, tmp_path: Path, name: str, damage: bytes | None, why: str
) -> None:
    package = tmp_path / "a.mlpackage"
    shutil.copytree(exported.bundle.root / "model-coreml-fp16.mlpackage", package)
    (package / name).unlink()
    if damage is not None:
        (package / name).write_bytes(damage)
    with pytest.raises(LoadError, match=why):
        preflight(package)


@pytest.mark.parametrize(("content", "why"), [(b"\1" * 9, "does not begin as one"), (b"hello you", "it is text")])
def test_junk_is_no_pte_without_any_toolchain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, why: str
) -> None:
    monkeypatch.setattr("exporters.preflight.executorch.unusable", lambda _: pytest.fail("it was asked for"))
    (tmp_path / "a.pte").write_bytes(content)
    with pytest.raises(LoadError, match=f"is no .pte file .*{why}"):
        preflight(tmp_path / "a.pte")


def test_core_ml_is_held_against_the_deployment_target(exported) -> None:
    path = exported.bundle.root / "model-coreml-fp16.mlpackage"
    assert preflight(path).verdict is Outcome.PASSED
    problems = failed(preflight(path, runtime="iOS15"))
    assert "iOS16" in problems["specification version"]
    assert COREML_TARGETS["iOS16"] == 7


@pytest.mark.parametrize(
    ("name", "runtime", "message"),
    [
        ("absent.ptl", None, "There is no file"),
        ("labels.txt", None, "preflight knows these alone"),
        ("model-ptl-fp32.ptl", "9.9", "There is no runtime '9.9'"),
        ("model-onnx-fp32.onnx", "2.1.0", "There is no runtime '2.1.0' for .onnx"),
    ],
)
def test_bad_questions_are_answered_in_a_sentence(exported, name: str, runtime: str | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        preflight(exported.bundle.root / name, runtime=runtime)


def test_a_newer_file_format_keeps_its_version_in_a_hidden_folder(tmp_path: Path) -> None:
    path = tmp_path / "gelu.ptl"
    torch.jit.script(torch.nn.GELU())._save_for_lite_interpreter(str(path))
    with zipfile.ZipFile(path) as archive:
        assert "gelu/.data/version" in archive.namelist()
    found = {check.name: check.found for check in preflight(path).checks}
    assert int(found["file format version"]) >= 6


def test_an_operator_that_no_pytorch_has_is_in_the_table(tmp_path: Path) -> None:
    path = tmp_path / "own.ptl"
    with torch.library._scoped_library("theirs", "DEF") as library:
        library.define("triple(Tensor x) -> Tensor")
        library.impl("triple", lambda x: 3 * x, "CompositeExplicitAutograd")

        class Triple(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return torch.ops.theirs.triple(x)

        torch.jit.script(Triple())._save_for_lite_interpreter(str(path))
    assert "theirs::triple is missing" in failed(preflight(path))["operators"]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(LoadError):
        preflight(path)


@pytest.mark.parametrize(("kind", "reason"), [("pt", "it is TorchScript, a .pt"), ("lfs", "it is a Git LFS pointer")])
def test_another_file_named_ptl_is_told(tmp_path: Path, kind: str, reason: str) -> None:
    path = tmp_path / "model.ptl"
    if kind == "pt":
        torch.jit.script(torch.nn.ReLU()).save(str(path))
    else:
        path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(LoadError, match=rf"no file of the lite interpreter \({reason}"):
        preflight(path)
    with pytest.raises(LoadError, match=rf"no \.ort model \({reason}"):
        preflight(path.rename(tmp_path / "model.ort"))


def write_onnx(path: Path, *nodes: tuple[str, str], opsets: dict[str, int]) -> Path:
    """Write a chain of operators (domain, type) on float32 (1, 4)."""
    import onnx
    from onnx import TensorProto, helper

    made = [helper.make_node(kind, [f"x{i}"], [f"x{i + 1}"], domain=domain) for i, (domain, kind) in enumerate(nodes)]
    ends = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, [1, 4]) for i in (0, len(nodes))]
    graph = helper.make_graph(made, "g", ends[:1], ends[1:])
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    path.write_bytes(helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString())
    assert isinstance(onnx.load(path), onnx.ModelProto)
    return path


def test_the_standard_domain_by_its_long_name_and_upper_case_are_read(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "MODEL.ONNX", ("ai.onnx", "Relu"), ("", "Abs"), opsets={"ai.onnx": 17})
    report = preflight(path)
    assert failed(report) == {}
    assert {check.name: check.found for check in report.checks}["operators"] == "2 operators"
    assert {check.name: check.found for check in report.checks}["opset"] == "17"


def test_operators_of_ai_onnx_ml_are_in_the_full_package_alone(tmp_path: Path) -> None:
    nodes = (("ai.onnx.ml", "Normalizer"), ("", "Relu"))
    path = write_onnx(tmp_path / "ml.onnx", *nodes, opsets={"": 17, "ai.onnx.ml": 3})
    assert failed(preflight(path)) == {}
    assert "ai.onnx.ml::Normalizer" in failed(preflight(path, runtime="mobile-1.18.0"))["operators"]


@pytest.mark.parametrize(
    ("node", "named"), [(("", "Sparkle"), "ai.onnx::Sparkle"), (("their.own", "Sparkle"), "their.own::Sparkle")]
)
def test_an_operator_that_onnx_does_not_have_is_in_the_table(tmp_path: Path, node: tuple[str, str], named: str) -> None:
    path = write_onnx(tmp_path / "odd.onnx", node, ("", "Relu"), opsets={"": 17, "their.own": 1})
    report = preflight(path)
    assert report.verdict is Outcome.FAILED
    assert named in failed(report)["operators"]


@pytest.mark.parametrize(("operator", "verdict"), [("FastGelu", Outcome.PASSED), ("Gelus", Outcome.FAILED)])
def test_an_operator_of_onnxruntimes_own_has_a_kernel_or_is_missing(
    operator: str, verdict: Outcome, tmp_path: Path
) -> None:
    import onnx
    from onnx import helper

    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (1, 4)) for name in ("x", "y")]
    graph = helper.make_graph(
        [helper.make_node(operator, ["x"], ["y"], domain="com.microsoft")], "g", ends[:1], ends[1:]
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "own.onnx")
    assert preflight(tmp_path / "own.onnx").verdict is verdict


@pytest.mark.parametrize("suffix", [".ptl", ".onnx", ".ort", ".tflite"])
def test_a_pointer_of_git_lfs_is_named_in_every_format(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"model{suffix}").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(LoadError, match="it is a Git LFS pointer"):
        preflight(tmp_path / f"model{suffix}")
