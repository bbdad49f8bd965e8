"""Core ML files against their source with the files' own weights in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import exporter_faults
import pytest
import torch
from bundle_damage import copied, rehash
from torch import nn

from exporters.bundle.open import Bundle, open_bundle
from exporters.formats.coreml import load_spec
from harness.runners.table import CannotJudgeError
from harness.verify.inside.own_weights import LIMIT_DB, compare_own, fused_reference, psnr_db
from harness.verify.options import VerifyOptions
from harness.verify.run import verify_bundle
from udacisense.base.records import Outcome

NAME = "coreml-palette6"
WORDS = "PSNR against its source with the file's own weights in it"


@pytest.fixture(scope="module")
def bundle(small_bundle: Path) -> Bundle:
    return open_bundle(small_bundle)


def shift_bias(model: nn.Module) -> None:
    with torch.no_grad():
        model.get_submodule(exporter_faults.CLASSIFIER).bias[0] += 1.0


def other_activation(model: nn.Module) -> None:
    """Leave every weight, and answer otherwise."""
    exporter_faults.other_activation(model)


@pytest.mark.parametrize("change", [other_activation, shift_bias, exporter_faults.Permuted])
def test_what_weights_do_not_explain_is_told(bundle: Bundle, change: Callable) -> None:
    variant = bundle.variant(NAME)
    model = fused_reference(bundle, variant, None)
    (problem,) = compare_own(bundle, variant, (change(model) or model).eval())
    assert problem.startswith(WORDS)


@pytest.mark.parametrize(
    "change", [lambda _: None, exporter_faults.scale_every_weight, exporter_faults.exchange_channels]
)
def test_weights_themselves_are_no_difference(bundle: Bundle, change: Callable) -> None:
    """The file's own are in the source: whether they are right is judged apart."""
    variant = bundle.variant(NAME)
    model = fused_reference(bundle, variant, None)
    change(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert compare_own(bundle, variant, model) == ()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_other_layers_are_not_judged(bundle: Bundle) -> None:
    with pytest.raises(CannotJudgeError, match="their layers are not the same"):
        compare_own(bundle, bundle.variant(NAME), nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10)))


def test_psnr() -> None:
    wanted = torch.tensor([[0.0, 10.0]])
    assert psnr_db(wanted + 0.1, wanted) == pytest.approx(40.0, abs=1e-3)
    assert psnr_db(wanted, wanted) == float("inf")
    assert not psnr_db(wanted * float("nan"), wanted) >= LIMIT_DB


def test_another_activation_fails_a_verification(small_bundle: Path, tmp_path: Path) -> None:
    """The program is edited, its weights are not."""
    changed = open_bundle(copied(small_bundle, tmp_path / "changed"))
    package = exporter_faults.file_of(changed, NAME)
    spec = load_spec(package)
    (function,) = spec.mlProgram.functions.values()
    (block,) = function.block_specializations.values()
    [op for op in block.operations if op.type == "relu"][-2].type = "softplus"
    (path,) = package.rglob("*.mlmodel")
    path.write_bytes(spec.SerializeToString())
    rehash(changed.root)
    (found,) = verify_bundle(open_bundle(changed.root), VerifyOptions(variants=[NAME], runners=["mil"])).measurements
    assert found.outcome is Outcome.FAILED
    assert WORDS in (found.reason or "")
