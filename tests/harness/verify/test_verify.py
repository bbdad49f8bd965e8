"""Whole verifications of a bundle that was really exported, whole and damaged."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from bundle_damage import copied, edit_json, flip_bit, rehash

from exporters.bundle.open import open_bundle
from harness.records import Measurement, MeasurementSet
from harness.verify.limits import LIMITS
from harness.verify.options import VerifyOptions
from harness.verify.run import exit_code, verify_bundle
from udacisense.base.records import Outcome, from_json, to_json
from udacisense.data.images import DataSet, Images
from udacisense.errors import InputError, LoadError

INT8 = "ptl-int8-static-qnnpack"
DYNAMIC = "torchscript-int8-dynamic-qnnpack"
VARIANTS = ("torchscript-fp32", INT8, DYNAMIC, "onnx-fp16", "ort-int8-static", "coreml-fp16-image", "executorch-fp32")
# What static int8 keeps of a network that was trained for seconds is not what these tests are about.
LENIENT = {
    "int8-static": dataclasses.replace(LIMITS["int8-static"], min_agreement_fraction=0.5, max_class_drop_points=None)
}


@pytest.fixture(scope="module")
def verified(small_bundle: Path, drawn_dataset: DataSet) -> MeasurementSet:
    seen: list[tuple[int, str]] = []
    result = verify_bundle(
        open_bundle(small_bundle),
        VerifyOptions(dataset=drawn_dataset, variants=VARIANTS, limits=LENIENT),
        on_progress=lambda total, name: seen.append((total, name)),
    )
    assert {total for total, _ in seen} == {len(seen)}
    return result


def rows(result: MeasurementSet, variant: str, runner: str | None = None) -> list[Measurement]:
    found = [m for m in result.measurements if m.spec.variant_id == variant]
    return [m for m in found if runner is None or m.spec.runner == runner]


def test_every_cell_passes_or_says_why_it_was_skipped(verified: MeasurementSet) -> None:
    assert exit_code(verified) == 0
    assert {m.spec.variant_id for m in verified.measurements} == set(VARIANTS)
    for m in verified.measurements:
        assert m.outcome is not Outcome.FAILED, (m.spec.variant_id, m.reason)
        assert (m.outcome is Outcome.PASSED) == (m.reason is None)
        assert m.timing is None
    assert verified.inputs == f"{'shapes'} test, 200 images"
    assert from_json(MeasurementSet, to_json(verified), source="the record") == verified


def test_float32_agrees_on_every_image(verified: MeasurementSet) -> None:
    (found,) = rows(verified, "torchscript-fp32")
    assert found.comparison is not None
    assert found.comparison.n_inputs == 200
    assert found.comparison.allclose
    assert found.comparison.top1_agreement_fraction == 1
    assert found.comparison.top1_fraction == found.comparison.reference_top1_fraction


def test_core_ml_is_skipped_without_a_mac_and_judged_by_its_program(verified: MeasurementSet) -> None:
    (native,) = rows(verified, "coreml-fp16-image", "coreml")
    (program,) = rows(verified, "coreml-fp16-image", "mil")
    assert native.reason == "needs macOS" or native.outcome is Outcome.PASSED
    assert program.outcome is Outcome.PASSED
    assert program.actual["provider"] == "MIL in torch (reference)"
    assert program.comparison is not None
    assert program.comparison.top1_agreement_fraction > 0.99


@pytest.mark.parametrize(("variant", "runner"), [(INT8, "lite"), (DYNAMIC, "torchscript")])
def test_int8_is_tried_under_every_engine_that_has_its_kernels(
    verified: MeasurementSet, variant: str, runner: str
) -> None:
    found = {m.spec.engine: m for m in rows(verified, variant, runner)}
    own = found.pop("qnnpack")
    assert own.comparison is not None
    assert own.comparison.n_inputs == 200
    if variant == INT8:
        (left,) = found.values()
        assert left.outcome is Outcome.SKIPPED
        assert left.reason == "its activations are signed: qnnpack alone computes them, so no other engine was tried"
        return
    assert found.keys() == {e for e in torch.backends.quantized.supported_engines if e not in {"none", "qnnpack"}}
    for engine, m in found.items():
        assert m.actual["engine"] == engine
        assert any("against the same file under qnnpack" in note for note in m.warnings)


def test_an_optimised_int8_file_is_not_blamed_for_sums_that_saturate_here(verified: MeasurementSet) -> None:
    (found,) = rows(verified, "ort-int8-static", "onnxruntime")
    assert found.outcome is Outcome.PASSED or (found.actual["saturates"] and "x86 without VNNI" in (found.reason or ""))


def test_what_was_not_exported_stays_skipped(verified: MeasurementSet) -> None:
    (found,) = rows(verified, "executorch-fp32")
    if found.outcome is Outcome.SKIPPED:
        assert "not exported: " in (found.reason or "")


@pytest.fixture
def damaged(small_bundle: Path, tmp_path: Path) -> Path:
    return copied(small_bundle, tmp_path / "damaged")


def test_a_changed_byte_is_refused(damaged: Path) -> None:
    flip_bit(damaged / "model-onnx-fp32.onnx", 5000)
    with pytest.raises(LoadError, match=r"model-onnx-fp32\.onnx is changed"):
        verify_bundle(open_bundle(damaged), VerifyOptions())


def test_permuted_labels_are_refused(damaged: Path) -> None:
    def swap(content: dict) -> None:
        labels = content["signature"]["labels"]
        labels[0], labels[1] = labels[1], labels[0]

    edit_json(damaged / "manifest.json", swap)
    with pytest.raises(LoadError, match="is not its reference model's"):
        verify_bundle(open_bundle(damaged), VerifyOptions())
    edit_json(damaged / "reference" / "reference.json", swap)
    rehash(damaged)
    with pytest.raises(LoadError, match=r"labels\.txt"):
        verify_bundle(open_bundle(damaged), VerifyOptions())


@pytest.mark.parametrize("field", ["mean", "std"])
def test_another_mean_or_std_is_refused(damaged: Path, field: str) -> None:
    def change(content: dict) -> None:
        content["signature"][field][1] += 0.01

    edit_json(damaged / "manifest.json", change)
    edit_json(damaged / "reference" / "reference.json", change)
    rehash(damaged)
    with pytest.raises(LoadError, match="the mean, the standard deviation or the resize is wrong"):
        verify_bundle(open_bundle(damaged), VerifyOptions())


def test_other_reference_weights_are_refused(damaged: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = damaged / "reference" / "model.safetensors"
    state = load_file(path)
    first = next(name for name in state if name.endswith("weight"))
    state[first] = state[first] * 1.5
    save_file(state, path)
    rehash(damaged)
    with pytest.raises(LoadError, match="golden pack's logits are not the float32 master's"):
        verify_bundle(open_bundle(damaged), VerifyOptions(variants=["torchscript-fp32"]))


def test_faulty_files_fail_each_with_its_reason(damaged: Path) -> None:
    """What a faulty exporter would write: the hashes are right and the files are wrong."""
    bundle = open_bundle(damaged)
    names = {name: damaged / str(bundle.variant(name).path) for name in ("torchscript-fp32", "ptl-fp32", "onnx-fp32")}
    module = torch.jit.load(str(names["torchscript-fp32"]))

    class Scaled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.inner(images) * 1.01

    torch.jit.script(Scaled()).save(str(names["torchscript-fp32"]))
    names["ptl-fp32"].write_bytes((damaged / "model-ptl-fp32-xnnpack.ptl").read_bytes())
    names["onnx-fp32"].write_bytes(names["onnx-fp32"].read_bytes()[:-1000])
    rehash(damaged)
    result = verify_bundle(
        open_bundle(damaged), VerifyOptions(variants=tuple(names), runners=("torchscript", "lite", "onnxruntime"))
    )
    reasons = {m.spec.variant_id: m.reason or "" for m in result.measurements if m.outcome is Outcome.FAILED}
    assert "not equal to its eager source" in reasons["torchscript-fp32"]
    assert "says of itself another variant_id" in reasons["ptl-fp32"]
    assert "is no valid ONNX model" in reasons["onnx-fp32"]
    assert exit_code(result) == 3


@pytest.mark.parametrize(("psnr_db", "outcome"), [(50.0, Outcome.PASSED), (35.0, Outcome.FAILED)])
def test_golden_logits_are_held_to_what_an_int8_batch_allows(damaged: Path, psnr_db: float, outcome: Outcome) -> None:
    """They were written image by image; a batch rounds some activations over an int8 border, and is not equal."""
    variant = open_bundle(damaged).variant("torchscript-int8-static-qnnpack")
    path = damaged / str(variant.golden_logits_path)
    logits = np.fromfile(path, dtype="<f4")
    noise = np.random.default_rng(0).choice([-1.0, 1.0], logits.size)
    (logits + noise * np.ptp(logits) * 10 ** (-psnr_db / 20)).astype("<f4").tofile(path)
    rehash(damaged)
    (found,) = verify_bundle(
        open_bundle(damaged), VerifyOptions(variants=[variant.id], runners=["torchscript"], limits=LIMITS | LENIENT)
    ).measurements[:1]
    assert found.outcome is outcome
    assert outcome is Outcome.PASSED or "its golden logits are not its eager source's" in (found.reason or "")


def test_the_golden_pack_stands_in_for_a_data_set_and_tolerances_are_options(small_bundle: Path) -> None:
    result = verify_bundle(open_bundle(small_bundle), VerifyOptions(variants=["torchscript-fp32"], rtol=0.0, atol=0.0))
    (found,) = result.measurements
    assert result.inputs.startswith("golden pack, ")
    assert found.comparison is not None
    assert (found.comparison.rtol, found.comparison.atol) == (0.0, 0.0)
    assert found.outcome is (Outcome.PASSED if found.comparison.max_abs == 0 else Outcome.FAILED)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"variants": ["nothing"]}, "has no variant 'nothing'"),
        ({"runners": ["nothing"]}, "no runner 'nothing'"),
        ({"runners": ["eager"]}, "no runner 'eager'"),
        ({"threads": 0}, "Threads must be from 1"),
        ({"threads": 10_000}, "Threads must be from 1"),
        ({"runners": ["lite"], "variants": ["onnx-fp32"]}, "nothing would be verified"),
    ],
)
def test_bad_options_are_refused(small_bundle: Path, options: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        verify_bundle(open_bundle(small_bundle), VerifyOptions(**options))


def test_another_data_set_is_refused(small_bundle: Path, drawn_dataset: DataSet) -> None:
    names = drawn_dataset.class_names
    other = dataclasses.replace(drawn_dataset, class_names=(names[1], names[0], *names[2:]))
    with pytest.raises(InputError, match="are not the bundle's"):
        verify_bundle(open_bundle(small_bundle), VerifyOptions(dataset=other))
    large = Images(torch.zeros(2, 3, 64, 64, dtype=torch.uint8), torch.tensor([0, 1]))
    with pytest.raises(InputError, match="64 × 64 px"):
        verify_bundle(open_bundle(small_bundle), VerifyOptions(dataset=dataclasses.replace(drawn_dataset, test=large)))


def test_probes_are_legal_images(small_bundle: Path) -> None:
    from harness.inputs import probe_images

    probes = probe_images(32)
    assert len(probes) >= 12
    assert all(image.shape == (3, 32, 32) and image.dtype == np.uint8 for image in probes.values())
    assert len({image.tobytes() for image in probes.values()}) == len(probes)
