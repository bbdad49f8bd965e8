"""``.pte`` and ``.tflite`` by the toolchain's own converters and runtimes; where it is set up in the tests' cache."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests_cache import CACHE

from exporters.bundle.open import Bundle, open_bundle
from exporters.bundle.tflite_file import read_tflite
from exporters.export import export_bundle
from exporters.formats.contract import ExportOptions
from exporters.formats.table import FORMATS
from exporters.preflight.run import preflight
from exporters.source import ExportSource
from exporters.toolchain.setup import unusable
from harness.verify.options import VerifyOptions
from harness.verify.run import verify_bundle
from udacisense.base.records import Outcome
from udacisense.errors import LoadError

pytestmark = [pytest.mark.toolchain, pytest.mark.slow]
OPTIONS = ExportOptions(formats=("executorch", "tflite"), calibration=32)
PLANS = [plan.id for name in OPTIONS.formats for plan in FORMATS[name].plans(OPTIONS)]


@pytest.fixture(autouse=True)
def in_tests_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UDACISENSE_CACHE", str(CACHE))
    if (reason := unusable("litert")) is not None:
        pytest.skip(f"with UDACISENSE_CACHE={CACHE}, {reason}")


@pytest.fixture
def bundle(source: ExportSource, once: Callable[..., Path]) -> Bundle:
    made = once("toolchain", lambda folder: export_bundle(source, folder / "bundle", OPTIONS))
    return open_bundle(made / "bundle")


@pytest.mark.parametrize("plan", PLANS)
def test_it_is_written_by_the_toolchains_torch_with_its_coverage(bundle: Bundle, exported, plan: str) -> None:
    variant = bundle.variant(plan)
    assert variant.outcome is Outcome.PASSED, variant.reason
    assert variant.toolchain["torch"] == "2.14.1"
    assert (variant.coverage is not None) == variant.precision.startswith("int8")
    if variant.precision == "int8-static":
        assert variant.coverage is not None
        assert variant.coverage.modules_int8 == variant.coverage.modules_total == 14
        assert variant.coverage.macs_int8_fraction == 1
        assert variant.options["recipe"] == exported.bundle.variant("onnx-int8-static").options["recipe"]


def test_all_that_xnnpack_took_is_read_from_the_file(bundle: Bundle) -> None:
    options = bundle.variant("executorch-fp32").options
    assert "7 XNNConv2d, 6 XNNDepthwiseConv2d, 1 XNNFullyConnected" in str(options["delegated"])
    assert options["not_delegated"] is None


@pytest.mark.parametrize("plan", PLANS)
def test_preflight_answers_for_both(bundle: Bundle, plan: str) -> None:
    report = preflight(bundle.path(str(bundle.variant(plan).path)))
    checks = {check.name: check for check in report.checks}
    assert report.verdict is Outcome.PASSED, report.checks
    assert checks["labels and normalisation"].found.startswith("there")
    assert checks["input shape"].found.startswith("1 × 3 × ")
    if plan.startswith("executorch"):
        assert checks["backends and operators"].found.startswith("XnnpackBackend")


def test_a_pte_cut_short_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "short.pte").write_bytes(bundle.path("model-executorch-fp32.pte").read_bytes()[:5000])
    with pytest.raises(LoadError, match=r"short\.pte is no whole \.pte file"):
        preflight(tmp_path / "short.pte")


def test_a_tflite_carries_labels_and_normalisation(bundle: Bundle) -> None:
    path = bundle.path("model-tflite-int8-static.tflite")
    with zipfile.ZipFile(path) as archive:
        labels = archive.read("labels.txt").decode().splitlines()
    assert labels == list(bundle.manifest.signature.labels)
    names = [read_tflite(path).model.Metadata(i).Name() for i in range(read_tflite(path).model.MetadataLength())]
    assert b"TFLITE_METADATA" in names


def test_every_file_verifies(bundle: Bundle) -> None:
    found = verify_bundle(bundle, VerifyOptions())
    # The toolchain's own runtimes judge every file; the phone's libraries may not be set up here.
    judged = [m for m in found.measurements if m.outcome is not Outcome.SKIPPED]
    assert {m.spec.variant_id for m in judged} == set(PLANS)
    wrong = [(m.spec.variant_id, m.reason) for m in judged if m.outcome is Outcome.FAILED]
    # A network of random weights decides by little, so int8 may flip one of few images.
    assert [name for name, _ in wrong if "int8" not in name] == []
    assert not [reason for _, reason in wrong if "weights" in str(reason) or "first layer" in str(reason)]
