"""A phone's times as a sweep's record: what verification speaks against is not recommended."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from exporters.bundle.open import open_bundle
from harness.device.results import read_verifications, to_bench_set
from harness.records import MeasurementSet
from udacisense.base.records import Outcome, write_record
from udacisense.errors import InputError


def failing(answer: MeasurementSet, variant_id: str) -> MeasurementSet:
    changed = [
        dataclasses.replace(m, outcome=Outcome.FAILED, reason="labels differ") if m.spec.variant_id == variant_id else m
        for m in answer.measurements
    ]
    return dataclasses.replace(answer, measurements=tuple(changed))


def test_what_failed_its_own_selftest_is_not_recommended(
    phone_bundle: Path, selftest_answer: MeasurementSet, bench_answer: MeasurementSet
) -> None:
    bundle = open_bundle(phone_bundle)

    def recommended(*verifications: MeasurementSet) -> list[str]:
        return [r.cell_id for r in to_bench_set(bench_answer, bundle, verifications=verifications).recommended]

    assert recommended(selftest_answer) == ["small/ptl-fp32 t1"]
    assert recommended(failing(selftest_answer, "ptl-int8-dynamic-qnnpack")) == ["small/ptl-fp32 t1"]
    assert recommended(failing(selftest_answer, "ptl-fp32")) == []
    other = dataclasses.replace(failing(selftest_answer, "ptl-fp32"), bundle_sha256="0" * 64)
    assert recommended(other) == ["small/ptl-fp32 t1"], "a record of another bundle says nothing here"
    assert to_bench_set(bench_answer, bundle).recommended == (), "who did not look recommends nothing"


def test_the_records_of_a_bundle_are_found_beside_it(selftest_answer: MeasurementSet, tmp_path: Path) -> None:
    for name in ("small.verify.json", "small.emulator-5554.verify.json", "smaller.verify.json", "small.x.bench.json"):
        write_record(tmp_path / name, selftest_answer)
    absent = tmp_path / "absent"
    assert read_verifications((tmp_path, tmp_path, absent), "small") == [selftest_answer] * 2
    (tmp_path / "small.verify.json").write_text("{")
    with pytest.raises(InputError, match=r"small\.verify\.json is not a valid MeasurementSet record"):
        read_verifications((tmp_path,), "small")
