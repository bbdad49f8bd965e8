"""Hand-computed comparisons, and the limits that decide on them."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from exporters.bundle.manifest import Loadable, plain
from harness.records import Comparison
from harness.verify.compare import FloatArray, compare
from harness.verify.limits import LIMITS, Limit, limit_for, out_of_limits, read_limits
from udacisense.errors import InputError

NAMES = ("a", "b", "c")


def logits(*rows: tuple[float, float, float]) -> FloatArray:
    return np.asarray(rows, dtype=np.float32)


MASTER = logits((3, 1, 0), (0, 2, 1.5), (0, 1, 5), (4, 0, 0))
LABELS = np.asarray([0, 1, 2, 1])


def held(outputs: FloatArray, source: FloatArray = MASTER, *, labels: bool = True) -> Comparison:
    return compare(outputs, source, MASTER, labels=LABELS if labels else None, class_names=NAMES, rtol=1e-3, atol=1e-3)


def test_equal_outputs_agree_fully() -> None:
    found = held(MASTER.copy())
    assert found.allclose
    assert (found.max_abs, found.mean_abs, found.rmse, found.psnr_db) == (0, 0, 0, None)
    assert found.top1_agreement_fraction == 1
    assert found.flips == ()
    assert found.min_cosine == pytest.approx(1)
    assert found.top1_fraction == found.reference_top1_fraction == 0.75
    assert found.per_class == found.reference_per_class == {"a": 1.0, "b": 0.5, "c": 1.0}
    assert found.mcnemar_p == 1


def test_answers_in_millionths_are_held_to_their_own_size() -> None:
    """Files of an untrained network, or of one that answers small shares, pass for no smallness of theirs."""
    small = MASTER * np.float32(1e-7)

    def problems(outputs: FloatArray, precision: str) -> tuple[str, ...]:
        given = {"labels": None, "class_names": NAMES, "rtol": 1e-3, "atol": 1e-3}
        return out_of_limits(compare(outputs, small, small, **given), LIMITS[precision])

    assert any("not equal to its eager source" in words for words in problems(np.zeros_like(small), "fp32"))
    assert any("top-1 differs" in words for words in problems(small[:, ::-1].copy(), "int8-static"))
    assert any("is the most that rounding explains" in words for words in problems(small[:, ::-1].copy(), "fp16"))
    assert problems(small * np.float32(1 + 1e-6), "fp32") == ()


def test_answers_in_billions_may_differ_by_what_float32_rounds() -> None:
    large = MASTER * np.float32(1e12)
    given = {"labels": None, "class_names": NAMES, "rtol": 1e-3, "atol": 1e-3}

    def problems(off: float) -> tuple[str, ...]:
        return out_of_limits(compare(large + np.float32(off), large, large, **given), LIMITS["fp32"])

    assert problems(1e6) == ()  # a fifth of a millionth of their range, where one of them is 0
    assert any("not equal to its eager source" in words for words in problems(1e9))


def test_numbers_are_those_computed_by_hand() -> None:
    outputs = MASTER.copy()
    outputs[1] = (0, 1.4, 1.5)  # b loses to c: off by 0.6 at one of 12 values
    found = held(outputs)
    assert not found.allclose
    assert found.max_abs == pytest.approx(0.6)
    assert found.mean_abs == pytest.approx(0.6 / 12)
    assert found.rmse == pytest.approx(0.6 / math.sqrt(12))
    assert found.psnr_db == pytest.approx(20 * math.log10(5 / (0.6 / math.sqrt(12))), abs=1e-4)
    cosine = (2 * 1.4 + 1.5 * 1.5) / math.hypot(2, 1.5) / math.hypot(1.4, 1.5)
    assert found.min_cosine == pytest.approx(cosine)
    (flip,) = found.flips
    assert (flip.index, flip.reference_label, flip.label) == (1, 1, 2)
    assert flip.reference_margin == pytest.approx(0.5)
    assert found.top1_fraction == 0.5
    assert found.per_class == {"a": 1.0, "b": 0.0, "c": 1.0}
    assert found.top1_agreement_low < 0.75 < found.top1_agreement_high


def test_the_source_decides_numbers_and_the_master_decisions() -> None:
    source = MASTER + 0.25
    found = held(source.copy(), source)
    assert found.max_abs == 0
    assert found.top1_agreement_fraction == 1
    assert held(MASTER.copy(), source).max_abs == pytest.approx(0.25)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_count_as_wrong(value: float) -> None:
    outputs = MASTER.copy()
    outputs[2, 2] = value
    found = held(outputs)
    assert found.nonfinite == 1
    assert found.max_abs is None
    assert not found.allclose
    assert [flip.index for flip in found.flips] == [2]
    assert found.top1_fraction == 0.5
    assert "NaN or infinite" in out_of_limits(found, LIMITS["palette4"])[0]


def test_without_labels_there_is_no_accuracy() -> None:
    found = held(MASTER.copy(), labels=False)
    assert found.top1_fraction is None
    assert found.per_class is None
    assert found.mcnemar_p is None


def test_nothing_compared_and_other_shapes_are_refused() -> None:
    empty = np.zeros((0, 3), dtype=np.float32)
    with pytest.raises(InputError, match="Nothing was compared"):
        compare(empty, empty, empty, labels=None, class_names=NAMES, rtol=0, atol=0)
    with pytest.raises(InputError, match=r"the variant have the shape \(4, 2\)"):
        held(MASTER[:, :2])


def test_zero_rows_have_a_cosine() -> None:
    zero = np.zeros_like(MASTER)
    assert held(zero, zero).min_cosine == 1
    assert held(MASTER.copy(), zero).min_cosine == 0


def many(flips: int, n: int, *, margin: float = 0.1, limit: Limit) -> tuple[str, ...]:
    """Judge ``n`` images of which ``flips`` flip."""
    master = np.tile(np.asarray([[margin, 0, -5]], dtype=np.float32), (n, 1))
    outputs = master.copy()
    outputs[:flips] = (0, margin, -5)
    found = compare(
        outputs, outputs, master, labels=np.zeros(n, dtype=np.int64), class_names=NAMES, rtol=1e-3, atol=1e-3
    )
    return out_of_limits(found, limit)


@pytest.mark.parametrize(
    ("precision", "n", "allowed"),
    [
        ("fp32", 1000, 0),
        ("fp16", 1000, 5),
        ("fp16", 38, 1),
        ("int8-static", 38, 3),
        ("int8-static", 100, 3),
        ("palette6", 1000, 50),
    ],
)
def test_agreement_limits_by_precision(precision: str, n: int, allowed: int) -> None:
    limit = dataclasses.replace(LIMITS[precision], max_class_drop_points=None)
    assert many(allowed, n, limit=limit) == ()
    assert f"on {allowed + 1} of {n} images" in many(allowed + 1, n, limit=limit)[0]


@pytest.mark.parametrize(("precision", "tie"), [("fp32", 0.0015), ("fp16", 0.01), ("palette4", 0.01)])
def test_a_tie_of_the_master_may_go_either_way(precision: str, tie: float) -> None:
    """As many flips as there are images: none counts, and each does as soon as the master has decided."""
    limit = dataclasses.replace(LIMITS[precision], max_class_drop_points=None)
    assert many(100, 100, margin=tie, limit=limit) == ()
    assert "on 100 of 100 images" in many(100, 100, margin=10 * tie, limit=limit)[0]


def test_limits_of_a_file_go_over_the_tables(tmp_path: Path) -> None:
    path = tmp_path / "limits.toml"
    path.write_text('[int8-static]\nmin_agreement_fraction = 0.9\n["v"]\ntie_margin = 0\nmin_psnr_db = 20\n[fp16]\n')
    limits = read_limits(path, [variant(), variant(id="w")])
    assert limits["int8-static"] == dataclasses.replace(LIMITS["int8-static"], min_agreement_fraction=0.9)
    assert limits["fp16"] == LIMITS["fp16"]
    own = limit_for(limits, variant())
    assert (own.min_agreement_fraction, own.tie_margin, own.min_psnr_db) == (0.9, 0.0, 20.0)
    assert limit_for(limits, variant(id="w")).tie_margin == LIMITS["int8-static"].tie_margin


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[int8-statik]\n", r"\[int8-statik\] is neither .* Did you mean 'int8-static'"),
        ("[fp16]\nmin_psnr = 3\n", "min_psnr"),
        ("[fp16]\nmin_psnr_db = 'high'\n", "min_psnr_db"),
        ("fp16 = 3\n", "is a section"),
        ("fp16 = \n", "no valid TOML"),
    ],
)
def test_faults_in_a_file_of_limits_are_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "limits.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        read_limits(path, [variant()])


def test_one_flip_against_a_sure_master_is_a_fault_in_fp16() -> None:
    assert many(1, 1000, margin=0.4, limit=LIMITS["fp16"]) == ()
    assert "decides by 3" in many(1, 1000, margin=3.0, limit=LIMITS["fp16"])[0]


def test_a_class_that_drops_fails_int8() -> None:
    assert many(3, 100, limit=LIMITS["int8-static"]) == ()
    limit = dataclasses.replace(LIMITS["int8-static"], min_agreement_fraction=0.5)
    assert many(5, 100, limit=limit) == ()
    assert many(6, 100, limit=limit) == ("class 'a' is 6.0 points below the float32 master, 5 allowed",)


def test_a_gain_never_fails() -> None:
    outputs = MASTER.copy()
    outputs[3] = (0, 4, 0)  # the master is wrong there
    limit = dataclasses.replace(LIMITS["int8-static"], min_agreement_fraction=0.5, min_psnr_db=None)
    assert out_of_limits(held(outputs), limit) == ()


def variant(**changes: object) -> Loadable:
    base = dataclasses.replace(plain("v", "onnx"), precision="int8-static")
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def test_a_row_of_the_variant_wins() -> None:
    own = dataclasses.replace(LIMITS["fp32"], atol=7.0)
    by_precision = dataclasses.replace(LIMITS["fp32"], atol=3.0)
    limits = {"v": own, "int8-static": by_precision}
    assert limit_for(limits, variant()).atol == 7.0
    assert limit_for(limits, variant(id="w")).atol == 3.0
    assert limit_for({}, variant()).atol == 1e-3


def test_int8_of_another_toolkit_is_held_to_decisions_only() -> None:
    assert limit_for({}, variant()).min_psnr_db is None
    assert limit_for({}, variant(format="ptl", engine="qnnpack")).min_psnr_db is not None
    assert limit_for({}, variant(precision="fp16")).min_psnr_db is not None
    # An .ort is held against its .onnx, loosely enough for fused operators, which round at other places.
    assert limit_for({}, variant(format="ort")).min_psnr_db == 50.0
    assert limit_for({}, variant(format="ort", precision="int8-dynamic")).min_psnr_db == 60.0
