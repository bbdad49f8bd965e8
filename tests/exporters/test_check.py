"""What a user's own network may be, and one sentence for each that it may not be; before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from exporters.bundle.open import open_bundle
from exporters.check import check_classifier
from exporters.export import export_bundle
from exporters.formats.contract import ExportOptions
from exporters.source import source_from_factory
from harness.verify.options import VerifyOptions
from harness.verify.run import verify_bundle
from udacisense.base.records import ModelSpec, Outcome
from udacisense.errors import InputError
from udacisense.models.build import build_model

SHAPE = (1, 3, 8, 8)
MODULE = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 10)
        {init}
    def forward(self, x):
        y = self.fc(5 * x.mean((2, 3)))
        {forward}
def build():
    {build}
"""


def net(*, init: str = "pass", forward: str = "return y", build: str = "return Net()") -> str:
    return MODULE.format(init=init, forward=forward, build=build)


EXPORTED = "torch.export.export(Net(), (torch.zeros(1, 3, 8, 8),))"
REFUSED = {
    "one class": (net(forward="return y[:, :1].sigmoid()"), "answers 1 value an image; one class is no classifier"),
    "whole numbers": (net(forward="return y.argmax(1, keepdim=True).repeat(1, 3)"), "answers int64; a classifier"),
    "float64": (net(build="return Net().double()", forward="return y.double()"), r"fc.weight is float64; .*float\(\)"),
    "float16": (net(build="return Net().half()"), "fc.weight is float16"),
    "without values": (net(build="return Net().to('meta')"), "fc.weight has no values"),
    "in inference mode": (net(build="\n    with torch.inference_mode(): return Net()"), "made in torch.inference_mode"),
    "another answer while traced": (
        net(forward="return y.flip(1) if torch.jit.is_tracing() else y"),
        r"answers otherwise where torch.jit.is_tracing\(\) is true .max",
    ),
    "another answer while exported": (
        net(forward="return y.softmax(1) if torch.compiler.is_exporting() else y"),
        r"answers otherwise where torch.compiler.is_exporting\(\) is true",
    ),
    "another answer in ONNX": (
        net(forward="return y[:, :5] if torch.onnx.is_in_onnx_export() else y"),
        r"where torch.onnx.is_in_onnx_export\(\) is true .another shape",
    ),
    "another answer in inference mode": (
        net(forward="return -y if torch.is_inference_mode_enabled() else y"),
        r"where torch.is_inference_mode_enabled\(\) is true",
    ),
    "another answer with gradients": (
        net(forward="return -y if torch.is_grad_enabled() else y"),
        r"where torch.is_grad_enabled\(\) is true",
    ),
    "the first image kept": (
        net(
            init="self.first = None",
            forward="self.first = x.mean().item() if self.first is None else self.first; return y * self.first",
        ),
        "builds another network each time: with the same weights",
    ),
    "sparse": (net(forward="return y.to_sparse()"), "answers a sparse tensor"),
    "prepared for quantisation": (
        net(
            build="m = Net().train(); m.qconfig = torch.ao.quantization.default_qat_qconfig; "
            "return torch.ao.quantization.prepare_qat(m)"
        ),
        "is prepared for quantisation already",
    ),
    "nested": (net(forward="return torch.nested.nested_tensor(list(y))"), "answers a nested tensor"),
    "elsewhere": (net(forward="return y.to('meta')"), "answers on meta"),
    "NaN weights": (
        net(init="nn.init.constant_(self.fc.bias, torch.nan)", forward="return y.nan_to_num()"),
        "fc.bias holds NaN",
    ),
    "one answer": (net(forward="return torch.ones_like(y)"), "answers every image alike"),
    "a buffer without values": (
        net(init="self.register_buffer('b', torch.zeros(2, device='meta'))"),
        "b has no values: it is on the meta device",
    ),
    "compiled inside": (net(init="self.fc = torch.compile(self.fc)"), "is compiled"),
    "compiled in place": (net(build="m = Net(); m.compile(); return m"), "is compiled"),
    "one tensor for all answers": (
        net(
            init="self.kept = torch.zeros(1, 10)",
            forward="self.kept = self.kept.resize_(y.shape).copy_(y); return self.kept",
        ),
        "overwrites by its next call",
    ),
    "drawn and not registered": (
        net(init="self.scale = torch.rand(10)", forward="return y * self.scale"),
        "register it",
    ),
    "modules in a list": (
        net(init="self.all = [nn.Linear(3, 10)]", forward="return self.all[0](x.mean((2, 3)))"),
        "nn.ModuleList",
    ),
    "noise of a batch": (
        net(forward="torch.manual_seed(0); return y + torch.randn(len(x), 10)"),
        "it draws random numbers",
    ),
    "left in training": (
        net(init="self.bn = nn.BatchNorm1d(10)", forward="return self.bn.train()(torch.cat([y, 2 * y]))[: len(x)]"),
        "bn.running_mean.*: bn stays in training mode",
    ),
    "no message": (
        net(forward="assert x.dtype == torch.uint8"),
        r"AssertionError: at their_module_\d+\.py:\d+ \(assert",
    ),
    "no words": (
        net(forward="class Mute(Exception): __str__ = None\n        raise Mute"),
        r"Mute: at their_module_\d+\.py",
    ),
    "the end of the program": (net(forward="raise SystemExit"), "not take .* ends the program, by None"),
    "no exception, in its forward": (net(forward="raise GeneratorExit"), "not take .*GeneratorExit"),
    "its input": (net(forward="x.mul_(0.5); return y"), "changes its input in place"),
    "the batch's brightest value": (net(forward="return y * x.max().item()"), "otherwise than among 3"),
    "the command line": (net(build="import sys; sys.exit(2)"), "ends the program, by 2: code that reads the command"),
    "no exception": (net(build="raise GeneratorExit"), "GeneratorExit"),
    "float64 answers": (net(forward="return y.double()"), "answers float64"),
    "bfloat16": (net(forward="return y.bfloat16()"), "answers bfloat16"),
    "not finite": (net(forward="return y / 0"), "NaN or infinity"),
    "not finite for some": (
        net(forward="return torch.where(x.mean((1, 2, 3))[:, None] < -0.8, torch.nan, y)"),
        "NaN or infinity to an ordinary image",
    ),
    "a layer of the first call": (
        net(
            init="self.late = None",
            forward="self.late = self.late or nn.Linear(10, 4); return self.late(y)",
        ),
        "makes its late.weight at the first call",
    ),
    "in DataParallel": (net(build="return nn.DataParallel(Net())"), "is wrapped in DataParallel; give the eager"),
    "an expanded buffer": (
        net(init="self.register_buffer('scale', torch.ones(1).expand(10))", forward="return y * self.scale"),
        "scale of the model is expanded",
    ),
    "another shape": (net(forward="return y[:, :, None, None]"), r"answers \(1, 10, 1, 1\)"),
    "two tensors": (net(forward="return y, x"), "answers tuple of Tensor, Tensor"),
    "a text": (net(forward="return {'answer': 'cat'}"), "answers dict with answer"),
    "dropout": (net(forward="return F.dropout(y, 0.5)"), "differently from call to call"),
    "a buffer": (
        net(init="self.register_buffer('calls', torch.zeros(1))", forward="self.calls += 1; return y + 0 * self.calls"),
        "changes its 'calls' with every call",
    ),
    "its neighbours": (net(forward="return y - y.mean(0)"), "otherwise than among 3"),
    "BatchNorm without statistics": (
        net(
            init="self.norm = nn.BatchNorm2d(3, track_running_stats=False)",
            forward="return y + self.norm(x).amax((2, 3)) @ self.fc.weight.T",
        ),
        "norm is BatchNorm without running statistics",
    ),
    "a decision over the batch": (
        net(forward="return -y if (x - x[:1]).any() else y"),
        r"a decision on the input's values .*their_module_\d+\.py:12",
    ),
    "another network": (
        net(build="import random; return nn.Sequential(nn.Flatten(), nn.Linear(192, random.randrange(2, 10**6)))"),
        "another network each time: 1.weight",
    ),
    "another constant": (
        net(init="import random; self.scale = random.random()", forward="return y * self.scale"),
        "with the same weights the next one answers otherwise",
    ),
    "lazy": (net(build="return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))"), "1.weight has no shape yet"),
    "scripted": (net(build="return torch.jit.script(nn.Linear(8, 10))"), "traced or scripted already"),
    "traced": (net(build="return torch.jit.trace(Net(), torch.zeros(1, 3, 8, 8))"), "traced or scripted already"),
    "compiled": (net(build="return torch.compile(Net())"), "compiled"),
    "exported": (
        net(build="return torch.export.export(Net(), (torch.zeros(1, 3, 8, 8),)).module()"),
        "exported already",
    ),
    "an exported program": (net(build="return torch.export.export(Net(), (torch.zeros(1, 3, 8, 8),))"), "returned Exp"),
    "quantised": (net(build="return torch.ao.quantization.quantize_dynamic(Net())"), "quantised already"),
    "a shape error": (net(forward="return y @ x"), r"does not take \(1, 3, 8, 8\): RuntimeError"),
    "a missing package": (net(build="import a_package_that_nobody_has"), "ModuleNotFoundError: No module named 'a_pac"),
    "a missing key": (net(build="return {}['net']"), "could not be built .*KeyError: 'net'"),
    "an assertion": (net(build="assert False, 'no'"), "AssertionError: no"),
    "an exit": (net(build="raise SystemExit('good bye')"), "SystemExit: good bye"),
    "a long cause": (net(build="raise ValueError('x' * 5000 + ' the end')"), r"x \.\.\. x.* the end"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_what_is_no_classifier_is_refused_with_its_cause(name: str, their: Callable[[str], str]) -> None:
    code, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        source_from_factory(their(code), SHAPE, None)


@pytest.mark.parametrize(
    "forward",
    [
        "return {'features': 'none', 'logits': y, 'hidden': x}",
        "return {'scores': y}",
        "return y, None",
        "return [y]",
        "import types; return types.SimpleNamespace(logits=y)",
    ],
)
def test_the_logits_are_taken_out_of_what_a_model_answers(forward: str, their: Callable[[str], str]) -> None:
    factory = their(net(forward=forward))
    assert len(source_from_factory(factory, SHAPE, None).signature.labels) == 10
    model = build_model(ModelSpec(architecture=factory, options={}))
    assert list(model.state_dict()) == ["fc.weight", "fc.bias"], "its weights keep their names"
    assert type(model).__name__ == "Net"


def test_a_map_that_a_first_call_computes_is_no_change(their: Callable[[str], str]) -> None:
    code = net(
        init="self.register_buffer('grid', None, persistent=False)",
        forward="self.grid = torch.ones(1) if self.grid is None else self.grid; return y + self.grid",
    )
    assert source_from_factory(their(code), SHAPE, None).signature.output_shape == (1, 10)


def test_a_network_for_single_images_is_exported_for_them(their: Callable[[str], str], tmp_path: Path) -> None:
    name = their(net(forward="return y.view(1, 10)"))
    source = source_from_factory(name, SHAPE, None)
    assert source.signature.output_shape == (1, 10)
    options = ExportOptions(formats=("onnx",), precisions=("fp32",))
    with pytest.raises(InputError, match=r"one image at a time, and fails for two .* export it with --batch 1"):
        export_bundle(source, tmp_path / "bundle", options)
    assert not (tmp_path / "bundle").exists()
    export_bundle(source, tmp_path / "bundle", replace(options, batch=1))
    bundle = open_bundle(tmp_path / "bundle")
    record = verify_bundle(bundle, VerifyOptions(runners=("onnxruntime",), variants=("onnx-fp32",), allow_factory=name))
    assert [row.outcome for row in record.measurements] == [Outcome.PASSED]


@pytest.mark.parametrize("forward", ["return y.view(int(x.shape[0]), 10)", "return torch.cat([*y.split(1)][:len(x)])"])
def test_a_batch_that_a_forward_burns_into_its_trace_is_found_at_export(
    forward: str, their: Callable[[str], str], tmp_path: Path
) -> None:
    source = source_from_factory(their(net(forward=forward)), SHAPE, None)
    made = export_bundle(source, tmp_path / "bundle", ExportOptions(formats=("onnx",), precisions=("fp32",)))
    assert [variant.batch for variant in made.variants] == [1, 1]


def test_an_eval_that_returns_nothing_is_taken(their: Callable[[str], str]) -> None:
    quiet = net() + "\nNet.eval = lambda self: None if super(Net, self).eval() else None\n"
    assert not source_from_factory(their(quiet), SHAPE, None).model.training


def test_what_a_users_code_sets_for_all_of_pytorch_ends_with_it(their: Callable[[str], str]) -> None:
    lines = (
        "torch.set_default_dtype(torch.float64)",
        "torch.set_default_device('meta')",
        "torch.set_grad_enabled(False)",
    )
    name = their("\n".join([*lines, net(build="return Net()")]))
    with pytest.raises(InputError, match=r"fc\.weight has no values"):
        source_from_factory(name, SHAPE, None)
    made = torch.ones(1, requires_grad=True) * 2
    assert (made.dtype, made.device.type, made.requires_grad) == (torch.float32, "cpu", True)
    assert torch.get_default_device().type == "cpu"  # asked by libraries, and an error where it was set to None


def test_what_a_factory_prints_and_reads_is_not_ours(
    their: Callable[[str], str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["udacisense", "export", "--json"])
    code = "import argparse\nargparse.ArgumentParser().parse_args()\nprint('hello')\n" + net(
        build="print('hi'); return Net()"
    )
    source_from_factory(their(code), SHAPE, None)
    told = capsys.readouterr()
    assert told.out == ""
    assert "hello" in told.err


@pytest.mark.parametrize("reads", [False, True])
def test_a_frozen_decision_is_the_reason_of_every_variant(
    their: Callable[[str], str], tmp_path: Path, *, reads: bool
) -> None:
    """No image of the pack goes the other way, so nothing else would notice."""
    forward = "return y if x.abs().max() < 100 else -y"
    if reads:
        forward = "return y + torch.from_numpy(x.numpy().mean((1, 2, 3)))[:, None]"
    source = source_from_factory(their(net(forward=forward)), SHAPE, None)
    options = ExportOptions(formats=("torchscript", "onnx"), precisions=("fp32",))
    for variant in export_bundle(source, tmp_path / "bundle", options).variants:
        assert variant.outcome is Outcome.FAILED
        assert "The trace froze a decision on the input's values, at their_module_" in str(variant.reason)
        assert ("x.numpy()" if reads else "x.abs().max() < 100") in str(variant.reason)


def test_a_network_that_another_process_builds_otherwise_is_the_reason_of_every_variant(
    their: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TQDM_DISABLE", raising=False)  # children have it
    name = their(
        "import os\n"
        + net(init="self.sign = -1 if 'TQDM_DISABLE' in os.environ else 1", forward="return y * self.sign")
    )
    manifest = export_bundle(
        source_from_factory(name, SHAPE, None),
        tmp_path / "b",
        ExportOptions(formats=("ptl", "onnx"), precisions=("fp32",)),
    )
    assert manifest.variants
    for variant in manifest.variants:
        assert variant.outcome is Outcome.FAILED
        assert "built in another process, with the same weights, answers otherwise" in (variant.reason or "")


def test_a_check_leaves_the_model_as_it_is() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert check_classifier(model, lambda: build(model), torch.rand(3, *SHAPE[1:])) == 4
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def build(model: nn.Module) -> nn.Module:
    import copy

    return copy.deepcopy(model)


@pytest.mark.parametrize(
    ("forward", "told"),
    [
        ("return y.softmax(1)", "between 0 and 1 and sum to one for each of 38 images, as behind a softmax"),
        ("return y.sigmoid()", "between 0 and 1 for each of 38 images, as behind a sigmoid"),
        ("return y.log_softmax(1)", "as behind a log_softmax"),
        ("return y", None),
    ],
)
def test_what_answers_no_logits_says_so_in_its_manifest(
    forward: str, told: str | None, their: Callable[[str], str], tmp_path: Path
) -> None:
    source = source_from_factory(their(net(forward=forward)), SHAPE, None)
    made = export_bundle(source, tmp_path / "bundle", ExportOptions(formats=("torchscript",), precisions=("fp32",)))
    assert open_bundle(tmp_path / "bundle").manifest.notes == made.notes
    assert len(made.notes) == (told is not None)
    assert all(str(told) in note for note in made.notes)


def test_an_onnx_file_that_onnxruntime_does_not_run_fails_at_export(
    their: Callable[[str], str], tmp_path: Path
) -> None:
    code = net(forward="return (y.bfloat16() @ self.fc.weight.T.bfloat16()[:3].repeat(4, 1)[:10]).float()")
    source = source_from_factory(their(code), SHAPE, None)
    manifest = export_bundle(source, tmp_path / "out", ExportOptions(formats=("onnx",), precisions=("fp32",)))
    for variant in manifest.variants:
        assert variant.outcome is Outcome.FAILED
        assert "onnxruntime does not run the file that PyTorch wrote: " in str(variant.reason)
