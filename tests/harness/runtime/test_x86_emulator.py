"""Plain files are right in the emulator's library too, and what would mislead there is said."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from exporters.bundle.manifest import Manifest
from exporters.bundle.metadata import EXTRA_FILE, metadata_text, read_extra_file
from exporters.bundle.open import open_bundle
from exporters.bundle.reference import load_reference
from exporters.export import export_bundle
from exporters.formats.contract import ExportOptions
from exporters.formats.pointwise import NEVER_ON_X86, right_on_x86, small_pointwise
from exporters.preflight.run import preflight
from exporters.source import make_source
from harness.records import Measurement
from harness.runners.android import open_session
from harness.runtime.setup import find_folder
from harness.verify.options import VerifyOptions
from harness.verify.run import verify_bundle
from udacisense.base.files import sha256_file
from udacisense.base.records import Outcome, write_record
from udacisense.cli.main import run
from udacisense.data.images import HOUSEHOLD_CLASSES, DataSet, Images, make_signature
from udacisense.models.build import build_model, preset

pytestmark = pytest.mark.android

Saved = tuple[Path, NDArray[np.float32], NDArray[np.float32]]
Save = Callable[[nn.Module, torch.Tensor], Saved]


class Squeezed(nn.Module):
    """Squeeze-and-excitation, plain and with groups, and a 1×1 convolution on a map of two places."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=4)
        self.down = nn.Conv2d(16, 8, 1)
        self.up = nn.Conv2d(8, 16, 1, groups=2, bias=False)
        self.strip = nn.Conv2d(16, 10, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        maps = maps * self.up(self.down(maps.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return self.strip(nn.functional.adaptive_avg_pool2d(maps, (2, 1))).sum((2, 3))


IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def _answers(path: Path, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    with open_session("android-x86_64", path) as session:
        return np.concatenate([session.run(inputs[i : i + 1]) for i in range(len(inputs))])


def test_products_of_matrices_are_right_where_the_convolutions_are_wrong(x86_64: str, save_ptl: Save) -> None:
    torch.manual_seed(3)
    model = Squeezed().eval()
    path, inputs, expected = save_ptl(model, IMAGES)
    # Should this fail, the library computes such convolutions rightly, and formats.pointwise is needed no more.
    assert np.abs(_answers(path, inputs) - expected).max() > 0.01
    rewritten = right_on_x86(copy.deepcopy(model), IMAGES[:1])
    assert small_pointwise(rewritten, IMAGES[:1]) == {}
    path, inputs, _ = save_ptl(rewritten, IMAGES)
    assert np.allclose(_answers(path, inputs), expected, rtol=1e-4, atol=1e-5)


@pytest.fixture
def squeezing(tmp_path: Path) -> Path:
    """A bundle of a network with squeeze-and-excitation, its plain file as the product writes it."""
    torch.manual_seed(5)
    spec = preset("p1-slim", resolution_px=32)
    model = build_model(spec)
    model.train()
    images = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():  # statistics of images, and logits that spread over several units
        for _ in range(20):
            model(images)
        last = [module for module in model.eval().modules() if isinstance(module, nn.Linear)][-1]
        last.weight.mul_(3 / model(images).std())
    source = make_source(
        name="squeezing", model=model, spec=spec, signature=make_signature(HOUSEHOLD_CLASSES), dataset=None
    )
    folder = tmp_path / "bundle"
    export_bundle(source, folder, ExportOptions(formats=("ptl",), precisions=("fp32",)))
    return folder


def _write_plain_convolutions(folder: Path) -> Path:
    """Write the bundle's plain file anew, with its convolutions as they are; return it."""
    opened = open_bundle(folder)
    path = opened.path(str(opened.variant("ptl-fp32").path))
    metadata = read_extra_file(path)
    assert metadata is not None
    model, _ = load_reference(opened)
    frozen = torch.jit.freeze(torch.jit.trace(model.eval(), torch.zeros(opened.manifest.signature.input_shape)))
    frozen._save_for_lite_interpreter(str(path), _extra_files={EXTRA_FILE: metadata_text(metadata)})
    new = {"sha256": sha256_file(path), "file_bytes": path.stat().st_size}
    manifest = opened.manifest
    changed = replace(
        manifest,
        files=tuple(replace(f, **new) if f.path == path.name else f for f in manifest.files),
        variants=tuple(replace(v, **new) if v.path == path.name else v for v in manifest.variants),
    )
    write_record(folder / Manifest.FILE_NAME, changed)
    return path


def _verified(folder: Path, runner: str) -> Measurement:
    (found,) = verify_bundle(open_bundle(folder), VerifyOptions(runners=(runner,), variants=("ptl-fp32",))).measurements
    return found


def test_what_the_product_exports_passes_there_and_preflight_is_silent(x86_64: str, squeezing: Path) -> None:
    found = _verified(squeezing, x86_64)
    assert found.outcome is Outcome.PASSED, found.reason
    assert preflight(squeezing / "model-ptl-fp32.ptl").warnings == ()
    assert open_bundle(squeezing).variant("ptl-fp32").options["pointwise_as_products"] == 24


def test_a_file_exported_otherwise_is_told_from_a_wrong_one(
    x86_64: str, squeezing: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _write_plain_convolutions(squeezing)
    found = _verified(squeezing, x86_64)
    assert found.outcome is Outcome.FAILED
    assert NEVER_ON_X86 in str(found.reason)
    assert _verified(squeezing, "lite").outcome is Outcome.PASSED
    (warning,) = preflight(path).warnings
    assert warning.startswith("24 such convolutions")
    assert NEVER_ON_X86 in warning
    capsys.readouterr()
    assert run(["preflight", str(path), "--prove"]) == 1
    told = capsys.readouterr().out
    assert "never test" in told
    assert "it answers otherwise than this host's interpreter" in told


def test_preflight_proves_a_file_of_others_by_running_it(
    x86_64: str, small_ptl: Saved, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = small_ptl[0]
    assert run(["preflight", str(path), "--prove"]) == 2
    assert "--size" in capsys.readouterr().err
    assert run(["preflight", str(path), "--prove", "--size", "32"]) == 0
    assert "android-x86_64" in capsys.readouterr().out


def test_a_runtime_that_is_not_set_up_is_listed_as_skipped(
    x86_64: str,
    small_ptl: Saved,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = find_folder(x86_64)
    assert folder is not None
    (tmp_path / "cache" / "runtimes").mkdir(parents=True)
    (tmp_path / "cache" / "runtimes" / folder.name).symlink_to(folder)
    monkeypatch.setenv("UDACISENSE_CACHE", str(tmp_path / "cache"))
    assert run(["preflight", str(small_ptl[0]), "--prove", "--size", "32", "--json"]) == 0
    proofs = {proof["runtime"]: proof for proof in json.loads(capsys.readouterr().out)["proofs"]}
    assert {name: proof["outcome"] for name, proof in proofs.items()} == {x86_64: "passed", "android-arm64": "skipped"}
    assert "udacisense runtime add android-arm64" in proofs["android-arm64"]["reason"]


def test_without_a_runtime_preflight_says_how_to_add_one(
    small_ptl: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UDACISENSE_CACHE", str(tmp_path / "empty"))
    assert run(["preflight", str(small_ptl[0]), "--prove"]) == 2
    assert "udacisense runtime add android-x86_64" in capsys.readouterr().err


def test_the_emulated_runner_is_fed_the_golden_pack_unless_all_is_asked_for(arm64: str, squeezing: Path) -> None:
    images = Images(torch.randint(0, 256, (60, 3, 32, 32), dtype=torch.uint8), torch.arange(60) % 10)
    dataset = DataSet("drawn", HOUSEHOLD_CLASSES, images, images)
    golden = len(open_bundle(squeezing).manifest.golden.images)
    for emulated, count in (("golden", golden), ("all", 60)):
        (found,) = verify_bundle(
            open_bundle(squeezing),
            VerifyOptions(dataset=dataset, runners=(arm64,), variants=("ptl-fp32-xnnpack",), emulated_images=emulated),
        ).measurements
        assert found.outcome is Outcome.PASSED, found.reason
        assert found.comparison is not None
        assert found.comparison.n_inputs == count
        assert any("--arm64-images all" in text for text in found.warnings) == (emulated == "golden")
