"""The ranked table, the Pareto front, the recommendation and the comparison of two sweeps."""

from __future__ import annotations

import dataclasses

import pytest
from bench_records import make_source, make_variant, plan_of, run_of, runs_of, set_of

from harness.bench.advice import recommend, recommendations
from harness.bench.compare_runs import compare_sets
from harness.bench.ranking import Row, is_tie, rank
from harness.records import BenchSet
from harness.report.tables import latency_table
from udacisense.base.records import Outcome, from_json, to_json
from udacisense.errors import InputError

TIMES = {
    "baseline/eager t1": 10.0,
    "baseline/eager t2": 8.0,
    "baseline/ptl-fp32 t1": 5.0,
    "baseline/ptl-fp32 t2": 164.0,
    "baseline/onnx-fp32 t1": 4.0,
    "baseline/onnx-fp32 t2": 2.0,
    "-/floor-onnxruntime t1": 0.01,
}
SOURCE = make_source(
    "baseline",
    make_variant("ptl-fp32", file_bytes=6_000_000),
    make_variant("onnx-fp32", file_bytes=7_000_000),
    make_variant("coreml-fp32"),
)


def measured(**changes: float | None) -> BenchSet:
    plan = plan_of(SOURCE)
    times = {name: ms for name, ms in {**TIMES, **changes}.items() if ms is not None}
    return set_of(plan, runs_of(plan, times))


def by_id(rows: list[Row]) -> dict[str, Row]:
    return {row.cell.id: row for row in rows}


def test_rows_go_from_fast_to_slow_then_skipped() -> None:
    rows = rank(measured())
    names = [row.cell.id for row in rows if row.median_ms is not None]
    assert names[:3] == ["baseline/onnx-fp32 t2", "baseline/onnx-fp32 t1", "baseline/ptl-fp32 t1"]
    assert names[-1] == "baseline/ptl-fp32 t2"
    assert rows[-1].outcome is Outcome.SKIPPED
    assert rows[-1].reason
    assert not any(row.cell.id.startswith("-/floor") for row in rows)


def test_speedup_is_to_the_eager_baseline_on_as_many_threads_and_at_its_best() -> None:
    row = by_id(rank(measured()))["baseline/onnx-fp32 t2"]
    assert row.speedup is not None
    assert row.speedup.value == pytest.approx(4.0)
    assert (row.speedup.low, row.speedup.high) == pytest.approx((4.0, 4.0)), "the host's slow rounds cancel"
    single = by_id(rank(measured()))["baseline/onnx-fp32 t1"]
    assert single.speedup is not None
    assert single.speedup_tuned is not None
    assert (single.speedup.value, single.speedup_tuned.value) == pytest.approx((2.5, 2.0))


def test_the_reference_is_shown_as_one_and_not_as_a_tie_with_itself() -> None:
    other = make_source("other", make_variant("onnx-fp32"))
    plan = plan_of(SOURCE, other)
    times = {**TIMES, "other/eager t1": 10.0, "other/eager t2": 4.0, "other/onnx-fp32 t1": 10.0}
    made = latency_table(rank(set_of(plan, runs_of(plan, times))))
    shown = {row[0]: row[made.columns.index("speed-up")] for row in made.rows}
    assert (shown["baseline/eager t1"], shown["baseline/eager t2"]) == ("1", "1")
    assert (shown["other/eager t2"] or "").startswith("2.00× (2.00-2.00)")
    assert (shown["other/onnx-fp32 t1"] or "").startswith("1.00× (1.00-1.00) tie"), "a file that is no faster is a tie"


def test_figures_of_a_row() -> None:
    row = by_id(rank(measured()))["baseline/onnx-fp32 t1"]
    # Report rounds are 1 … 6; the host is 10 % slower with each step of (round mod 3).
    slow = sorted(1.0 + 0.1 * (r % 3) + 0.001 * r for r in range(1, 7))
    median = 4.0 * (slow[2] + slow[3]) / 2
    assert row.median_ms == pytest.approx(median)
    assert row.fps == pytest.approx(1000 / median)
    assert row.spread_fraction == pytest.approx(4.0 * (slow[-1] - slow[0]) / median)
    assert row.processes == 6
    assert row.floor_ms == pytest.approx(0.01, rel=0.25)
    assert row.limit_fraction == pytest.approx(1.0 / median), "100 MFLOP at 100 GFLOP/s is 1 ms"
    assert row.top1_fraction == 0.8
    assert row.noisy, "the processes differ by a fifth"


def test_rows_report_other_rounds_than_those_that_chose_them() -> None:
    plan = plan_of(SOURCE)
    runs = runs_of(plan, TIMES)
    cells = {cell.id: cell for cell in plan.cells}
    runs = [r for r in runs if (r.cell_id, r.phase) != ("baseline/onnx-fp32 t2", "tune")]
    runs.append(run_of(cells["baseline/onnx-fp32 t2"], 0, 0.5, phase="tune"))  # a lucky round
    row = by_id(rank(set_of(plan, runs)))["baseline/onnx-fp32 t2"]
    assert row.median_ms == pytest.approx(2.0, rel=0.25)
    assert row.is_tuned
    assert not row.is_tuning_only


def test_a_cell_that_failed_has_its_reason_and_no_figure() -> None:
    plan = plan_of(SOURCE)
    cells = {cell.id: cell for cell in plan.cells}
    runs = [*runs_of(plan, TIMES), run_of(cells["baseline/ptl-fp32 t1"], 9, None)]
    row = by_id(rank(set_of(plan, runs)))["baseline/ptl-fp32 t1"]
    assert (row.outcome, row.reason) == (Outcome.FAILED, "signal 11 (SIGSEGV)")


def test_ties_are_called_ties() -> None:
    rows = by_id(rank(measured(**{"baseline/onnx-fp32 t1": 2.0})))
    assert is_tie(measured(**{"baseline/onnx-fp32 t1": 2.0}), "baseline/onnx-fp32 t1", "baseline/onnx-fp32 t2")
    assert rows["baseline/onnx-fp32 t1"].is_tie_with_best
    assert rows["baseline/onnx-fp32 t2"].is_tie_with_best
    assert not rows["baseline/ptl-fp32 t1"].is_tie_with_best


def test_cells_that_shared_no_round_cannot_be_told_apart() -> None:
    plan = plan_of(SOURCE)
    cells = {cell.id: cell for cell in plan.cells}
    first, second = "baseline/onnx-fp32 t1", "baseline/ptl-fp32 t1"
    made = set_of(plan, [run_of(cells[first], 1, 2.0), run_of(cells[second], 2, 9.0)])
    assert is_tie(made, first, second)


def test_pareto_front_of_time_size_and_accuracy() -> None:
    rows = by_id(rank(measured()))
    front = {name for name, row in rows.items() if row.is_pareto}
    # ptl at one thread is slower than onnx and smaller; onnx at one thread is beaten by itself at two.
    assert front == {"baseline/onnx-fp32 t2", "baseline/ptl-fp32 t1"}
    accurate = {("baseline", "ptl-fp32"): 0.5, ("baseline", "onnx-fp32"): 0.9}
    rows = by_id(rank(measured(), accuracy=accurate))
    assert rows["baseline/ptl-fp32 t1"].top1_fraction == 0.5
    assert rows["baseline/ptl-fp32 t1"].is_pareto, "less accurate, but smaller"


def test_recommendation_in_words() -> None:
    text = recommend(measured())
    assert "`onnx-fp32` on onnxruntime, 2 threads" in text
    assert "4× as fast as (interval 4-4) the eager baseline" in text


def test_the_smaller_file_wins_a_tie() -> None:
    text = recommend(measured(**{"baseline/ptl-fp32 t1": 2.0}))
    assert "`ptl-fp32` on lite, 1 thread" in text
    assert "a tie with `onnx-fp32`" in text


def test_wrong_answers_are_not_recommended() -> None:
    made = measured()
    runs = [dataclasses.replace(run, wrong_answers=int("onnx" in run.cell_id)) for run in made.runs]
    assert "`ptl-fp32`" in recommend(dataclasses.replace(made, runs=tuple(runs)))


def test_nothing_measured_recommends_nothing() -> None:
    plan = plan_of(SOURCE)
    assert "nothing can be recommended" in recommend(set_of(plan, []))


def test_a_recommended_setting_names_its_rounds() -> None:
    made = measured()
    (found,) = recommendations(made, rank(made))
    assert (found.cell_id, found.threads) == ("baseline/onnx-fp32 t2", 2)
    assert (found.chosen_on_rounds, found.reported_on_rounds) == ((0,), (1, 2, 3, 4, 5, 6))
    assert recommendations(dataclasses.replace(made, complete=False), rank(made)) == (), "it was cut short"


def test_a_set_survives_its_file() -> None:
    made = measured()
    assert from_json(BenchSet, to_json(made), source="the set") == made


def test_a_sweep_of_another_release_is_refused_in_a_sentence() -> None:
    older = to_json(measured()).replace('"schema_version": 2', '"schema_version": 1')
    with pytest.raises(
        InputError, match=r"was written by another release \(schema version 1 of BenchSet\): make it again"
    ):
        from_json(BenchSet, older, source="the set")


def test_comparison_of_two_sweeps_finds_what_changed() -> None:
    before, after = measured(), measured(**{"baseline/onnx-fp32 t2": 3.0, "baseline/ptl-fp32 t2": None})
    made = compare_sets(before, after)
    changes = {change.cell_id: change for change in made.changes}
    assert changes["baseline/onnx-fp32 t2"].verdict == "slower"
    assert changes["baseline/onnx-fp32 t2"].ratio is not None
    assert changes["baseline/onnx-fp32 t2"].ratio.value == pytest.approx(1.5)
    assert changes["baseline/eager t1"].verdict == "tie"
    assert "baseline/ptl-fp32 t2" in made.only_before
    assert made.notes == ()
    assert any("reference" in note for note in compare_sets(before, measured(**{"baseline/eager t1": 30.0})).notes)


def test_unlike_hosts_are_never_compared() -> None:
    other = measured()
    other = dataclasses.replace(other, host=dataclasses.replace(other.host, cpu="Cortex-X4"))
    with pytest.raises(InputError, match="unlike hosts"):
        compare_sets(measured(), other)


def test_sets_without_a_common_cell_are_refused() -> None:
    plan = plan_of(make_source("other", make_variant("onnx-fp32")))
    with pytest.raises(InputError, match="no cell in common"):
        compare_sets(measured(), set_of(plan, runs_of(plan, {"other/onnx-fp32 t1": 1.0})))
