"""Without photos, ``.pte`` and ``.tflite`` hold the scales that the model came with, as TorchScript and ONNX do."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tests_cache import CACHE

from exporters.bundle.open import Bundle, open_bundle
from exporters.export import export_bundle
from exporters.formats.contract import ExportOptions
from exporters.source import source_from_artifact
from exporters.toolchain.setup import unusable
from harness.verify.options import VerifyOptions
from harness.verify.run import verify_bundle
from udacisense.base.records import Outcome
from udacisense.zoo.table import zoo_folder

pytestmark = [pytest.mark.toolchain, pytest.mark.slow]
ENGINE = "qnnpack"
FORMATS = ("torchscript", "onnx", "executorch", "tflite")


@pytest.fixture
def bundle(monkeypatch: pytest.MonkeyPatch, once: Callable[..., Path]) -> Bundle:
    monkeypatch.setenv("UDACISENSE_CACHE", str(CACHE))
    if (reason := unusable("litert")) is not None:
        pytest.skip(f"with UDACISENSE_CACHE={CACHE}, {reason}")
    options = ExportOptions(formats=FORMATS, precisions=("int8-static",), engines=(ENGINE,))
    source = source_from_artifact(Path("tiny"), None)
    return open_bundle(once("recipe", lambda folder: export_bundle(source, folder / "bundle", options)) / "bundle")


@pytest.mark.parametrize("suffix", [".pte", ".tflite"])
def test_the_file_holds_each_scale_of_the_recipe(bundle: Bundle, suffix: str) -> None:
    (variant,) = (v for v in bundle.manifest.variants if str(v.path).endswith(suffix))
    assert variant.outcome is Outcome.PASSED, variant.reason
    assert variant.coverage is not None
    assert variant.coverage.modules_int8 == variant.coverage.modules_total == 20
    data = bundle.path(str(variant.path)).read_bytes()
    recipe = load_file(zoo_folder("tiny") / f"static-int8-{ENGINE}.safetensors")
    pairs = {name: pair for name, pair in recipe.items() if name.startswith("activation_")}
    lost = {name for name, pair in pairs.items() if struct.pack("<f", float(pair[0])) not in data}
    # The mean is rounded twice running, of which LiteRT keeps the first.
    assert lost == ({"activation_post_process_27"} if suffix == ".tflite" else set())


def test_all_files_are_of_one_recipe_and_verify_tells_how_many_decisions_differ(bundle: Bundle) -> None:
    assert len({variant.options["recipe"] for variant in bundle.manifest.variants}) == 1
    found = verify_bundle(bundle, VerifyOptions(runners=("torchscript", "onnxruntime", "executorch", "litert")))
    told = {m.spec.variant_id: " ".join(m.warnings) for m in found.measurements}
    for name in ("onnx-int8-static", "executorch-int8-static", "tflite-int8-static"):
        assert f"than torchscript-int8-static-{ENGINE}" in told[name]
    assert "than executorch-int8-static" in told["tflite-int8-static"]
