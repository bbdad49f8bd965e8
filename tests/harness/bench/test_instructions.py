"""ARM instruction counts beside times: shown, never ranked, and where they disagree, said."""

from __future__ import annotations

import dataclasses

import pytest
from bench_records import make_source, make_variant, plan_of, runs_of, set_of

from harness.bench.instructions import disagreements
from harness.bench.ranking import rank
from harness.records import BenchSet, VariantInstructions
from harness.report.tables import instructions_table, latency_table
from udacisense.base.records import Outcome, from_json, to_json

TIMES = {
    "baseline/eager t1": 10.0,
    "baseline/eager t2": 8.0,
    "baseline/ptl-fp32 t1": 5.0,
    "baseline/ptl-fp32 t2": 4.0,
    "baseline/ptl-fp32-xnnpack t1": 6.0,
    "baseline/ptl-fp32-xnnpack t2": 164.0,
}


def _counted(variant_id: str, millions: float | None) -> VariantInstructions:
    return VariantInstructions(
        bundle="baseline",
        variant_id=variant_id,
        runtime="android-arm64",
        threads=1,
        batch_size=1,
        macs=50_000_000,
        instructions_per_call=None if millions is None else millions * 1e6,
        spread_fraction=None if millions is None else 0.001,
        runs=None if millions is None else 3,
        library=None if millions is None else "pytorch_android_lite 1.12.2",
        cpu=None if millions is None else "cortex-a76",
        outcome=Outcome.PASSED if millions is not None else Outcome.FAILED,
        reason=None if millions is not None else "it would not load",
    )


def _measured(*counted: VariantInstructions) -> BenchSet:
    plan = plan_of(make_source("baseline", make_variant("ptl-fp32"), make_variant("ptl-fp32-xnnpack")))
    return dataclasses.replace(set_of(plan, runs_of(plan, TIMES)), instructions=counted)


def test_counts_change_no_order_and_stand_at_one_thread_alone() -> None:
    bare, counted = _measured(), _measured(_counted("ptl-fp32", 80.0), _counted("ptl-fp32-xnnpack", 55.0))
    assert [row.cell.id for row in rank(bare)] == [row.cell.id for row in rank(counted)]
    made = latency_table(rank(counted))
    column = made.columns.index("ARM instructions")
    shown = {str(row[0]): (row[column], row[column + 1]) for row in made.rows}
    assert shown["baseline/ptl-fp32-xnnpack t1"] == ("55.00 M ± 0.10 %", "1.10")
    assert shown["baseline/ptl-fp32 t2"] == (None, None)
    assert shown["baseline/eager t1"] == (None, None)
    assert "ARM instructions" not in latency_table(rank(bare)).columns


@pytest.mark.parametrize(("plain", "xnnpack", "is_said"), [(80.0, 55.0, True), (55.0, 80.0, False)])
def test_a_disagreement_with_this_hosts_times_is_one_sentence(plain: float, xnnpack: float, *, is_said: bool) -> None:
    measured = _measured(_counted("ptl-fp32", plain), _counted("ptl-fp32-xnnpack", xnnpack))
    told = disagreements(measured, rank(measured))
    assert len(told) == int(is_said)
    if is_said:
        assert "times prefer `ptl-fp32`" in told[0]
        assert "ARM instructions `ptl-fp32-xnnpack` (55.0 M against 80.0 M)" in told[0]


@pytest.mark.parametrize(("onnx", "is_said"), [(85.0, True), (40.0, False)])
def test_a_disagreement_between_libraries_is_one_sentence(onnx: float, *, is_said: bool) -> None:
    plan = plan_of(make_source("baseline", make_variant("ptl-fp32-xnnpack"), make_variant("onnx-fp32")))
    times = {**TIMES, "baseline/onnx-fp32 t1": 2.0, "baseline/onnx-fp32 t2": 2.0}
    counted = (_counted("ptl-fp32-xnnpack", 55.0), _counted("onnx-fp32", onnx))
    measured = dataclasses.replace(set_of(plan, runs_of(plan, times)), instructions=counted)
    told = disagreements(measured, rank(measured))
    assert len(told) == int(is_said)
    if is_said:
        assert "in any runner on 1 thread: this host's times prefer `onnx-fp32`" in told[0]
        assert "ARM instructions `ptl-fp32-xnnpack` (55.0 M against 85.0 M)" in told[0]


def test_a_record_from_before_there_were_counts_still_opens() -> None:
    text = to_json(_measured())
    start = text.index('"instructions"')
    older = text[:start].rstrip().rstrip(",") + "\n}\n"
    assert from_json(BenchSet, older, source="an older record").instructions == ()


def test_the_table_of_counts_holds_changes_and_names_what_failed() -> None:
    made = instructions_table([_counted("ptl-fp32", 80.0), _counted("ptl-fp32-xnnpack", 20.0), _counted("ptl-x", None)])
    assert [row[4] for row in made.rows] == ["+0.0 %", "-75.0 %", None]
    assert any("it would not load" in note for note in made.notes)


def test_threads_that_fight_are_marked_and_never_recommended() -> None:
    rows = rank(_measured())
    made = latency_table(rows)
    marked = [str(row[0]) for row in made.rows if "STALLS" in str(row[-1])]
    assert marked == ["baseline/ptl-fp32-xnnpack t2"]
    assert not any(row.is_tuned for row in rows if row.cell.id in marked)
