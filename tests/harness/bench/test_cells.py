"""Which cells a sweep has and in which order they run."""

from __future__ import annotations

from collections import Counter

import pytest
from bench_records import make_source, make_variant, plan_of, run_of

from harness.bench.cells import BUDGETS
from harness.bench.rounds import choose, chosen_steps, setting, step_seconds, tune_steps
from udacisense.base.records import Outcome
from udacisense.errors import InputError

BASELINE = make_source(
    "baseline",
    make_variant("torchscript-fp32"),
    make_variant("ptl-fp32"),
    make_variant("ptl-int8-dynamic-qnnpack"),
    make_variant("torchscript-int8-dynamic-fbgemm"),
    make_variant("onnx-fp32"),
    make_variant("coreml-fp32"),
    make_variant("onnx-fp16", outcome=Outcome.SKIPPED, reason="no such operator", path=None, sha256=None),
)
TINY = make_source("tiny", make_variant("onnx-fp32"), make_variant("ptl-fp32"))


def test_fp32_needs_no_engine_and_int8_runs_under_the_one_it_was_packed_for() -> None:
    engines = {(c.variant_id, c.engine) for c in plan_of(BASELINE).runnable}
    assert ("ptl-fp32", None) in engines
    assert ("onnx-fp32", None) in engines
    assert {e for v, e in engines if v == "ptl-int8-dynamic-qnnpack"} == {"qnnpack"}
    assert {e for v, e in engines if v == "torchscript-int8-dynamic-fbgemm"} == {"fbgemm"}


def test_named_engines_run_what_their_family_can_read() -> None:
    plan = plan_of(BASELINE, engines=["x86", "onednn", "qnnpack"])
    engines = {(c.variant_id, c.engine) for c in plan.runnable if "int8" in c.precision}
    assert engines == {
        ("torchscript-int8-dynamic-fbgemm", "x86"),
        ("torchscript-int8-dynamic-fbgemm", "onednn"),
        ("ptl-int8-dynamic-qnnpack", "qnnpack"),
    }


def test_graph_optimisation_levels_are_cells_of_their_own() -> None:
    plan = plan_of(BASELINE, graph_optimizations=["basic", "all"], threads=[1])
    levels = {c.id for c in plan.runnable if c.format == "onnx" and c.bundle}
    assert levels == {"baseline/onnx-fp32@basic t1", "baseline/onnx-fp32@all t1"}


def test_an_engine_that_a_variant_needs_and_the_host_lacks_is_skipped_with_the_reason() -> None:
    cells = plan_of(BASELINE, supported_engines=("x86",)).cells
    reasons = {c.skip_reason for c in cells if c.engine == "qnnpack"}
    assert reasons == {"this PyTorch was built without the quantised engine qnnpack"}


def test_what_cannot_run_or_was_not_exported_is_skipped_with_its_reason() -> None:
    reasons = {c.id: c.skip_reason for c in plan_of(BASELINE).cells if c.skip_reason}
    assert reasons["baseline/coreml-fp32 t1"] == "needs macOS"
    assert reasons["baseline/onnx-fp16 t1"] == "not exported (skipped): no such operator"
    assert reasons["baseline/onnx-fp32[onnxruntime-xnnpack] t1"] == "built without XNNPACK"


def test_a_runner_that_only_shows_semantics_is_never_timed() -> None:
    assert "mil" not in {c.runner for c in plan_of(BASELINE).cells}


def test_every_bundle_has_its_eager_model_and_the_baseline_is_the_reference() -> None:
    plan = plan_of(TINY, BASELINE)
    assert {c.bundle for c in plan.cells if c.format == "eager"} == {"tiny", "baseline"}
    assert plan.reference == "baseline/eager t1"
    assert plan_of(TINY, BASELINE, reference="tiny").reference == "tiny/eager t1"


def test_each_runtime_has_one_floor() -> None:
    floors = [c.runner for c in plan_of(BASELINE, TINY).cells if c.bundle is None]
    assert sorted(floors) == ["lite", "onnxruntime", "torchscript"]


def test_cell_ids_are_unique() -> None:
    plan = plan_of(BASELINE, TINY, threads=[1, 2, 4], batch_sizes=[1, 8], engines=["x86", "qnnpack"])
    assert max(Counter(c.id for c in plan.cells).values()) == 1


def test_a_fixed_batch_is_not_run_at_another() -> None:
    source = make_source("b", make_variant("onnx-fp32", batch=1))
    cells = plan_of(source, batch_sizes=[1, 8]).cells
    reasons = {c.batch_size: c.skip_reason for c in cells if c.runner == "onnxruntime" and c.bundle}
    assert reasons[8] == "exported for batches of 1"


@pytest.mark.parametrize("threads", [[0], [10_000], [-1], [], [1, 9]])
def test_impossible_threads_are_refused(threads: list[int]) -> None:
    with pytest.raises(InputError, match="Threads must be from 1 to 8"):
        plan_of(BASELINE, threads=threads)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch_sizes": [0]}, "Batch sizes must be from 1 to 4096"),
        ({"budget": "endless"}, "no budget 'endless'; choose one of quick, default, thorough"),
        ({"variants": ["pt-fp64"]}, "No bundle holds pt-fp64; they hold coreml-fp32"),
        ({"engines": ["neon"]}, "no quantised engine neon; it has qnnpack"),
        ({"graph_optimizations": ["most"]}, "level most; choose of disabled, basic, extended, all"),
        ({"reference": "p9"}, "The reference 'p9' is not one of the bundles: baseline"),
        ({"variants": ["coreml-fp32"]}, "nothing to measure: needs macOS"),
    ],
)
def test_bad_options_say_what_is_allowed(change: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        plan_of(BASELINE, **change)


def test_no_bundle_is_refused() -> None:
    with pytest.raises(InputError, match="No bundle was given"):
        plan_of()


def test_named_variants_are_kept_and_nothing_else() -> None:
    plan = plan_of(BASELINE, variants=["onnx-fp32"])
    assert {c.variant_id for c in plan.runnable if c.bundle} == {"onnx-fp32", "eager"}


def test_rounds_hold_every_cell_once_in_an_order_of_their_own_that_the_seed_repeats() -> None:
    plan = plan_of(BASELINE, TINY, budget="thorough")
    rounds: dict[int, list[str]] = {}
    for step in tune_steps(plan):
        rounds.setdefault(step.round, []).append(step.cell.id)
    assert len(rounds) == 3
    assert all(sorted(ids) == sorted(c.id for c in plan.runnable) for ids in rounds.values())
    assert len({tuple(ids) for ids in rounds.values()}) == 3
    assert tune_steps(plan) == tune_steps(plan_of(BASELINE, TINY, budget="thorough"))
    assert tune_steps(plan) != tune_steps(plan_of(BASELINE, TINY, budget="thorough", seed=1))


def test_tuned_threads_and_leaders_are_chosen_on_the_tune_rounds() -> None:
    plan = plan_of(BASELINE)
    cells = {c.id: c for c in plan.cells}
    tune = {
        "baseline/eager t1": 10.0,
        "baseline/eager t2": 6.0,
        "baseline/ptl-fp32 t1": 7.0,
        "baseline/ptl-fp32 t2": 164.0,  # two thread pools on two cores
        "baseline/ptl-int8-dynamic-qnnpack@qnnpack t1": 8.0,
        "baseline/ptl-int8-dynamic-qnnpack@qnnpack t2": 7.9,  # not worth a core
        "baseline/onnx-fp32 t1": 3.0,
        "baseline/onnx-fp32 t2": 2.0,
    }
    runs = [run_of(cells[name], 0, ms, phase="tune") for name, ms in tune.items()]
    # The report rounds would choose otherwise, and are not asked.
    runs.append(run_of(cells["baseline/ptl-fp32 t2"], 1, 0.1))
    choice = choose(plan, runs)
    assert set(choice.tuned) == {
        "baseline/eager t2",
        "baseline/ptl-fp32 t1",
        "baseline/ptl-int8-dynamic-qnnpack@qnnpack t1",
        "baseline/onnx-fp32 t2",
    }
    assert set(choice.leaders) == {"baseline/ptl-fp32 t1", "baseline/onnx-fp32 t2"}
    assert "baseline/ptl-fp32 t2" not in choice.standing
    assert choice.standing == ("baseline/onnx-fp32 t1", "baseline/onnx-fp32 t2"), "the rest is out of contention"


def test_a_cell_that_failed_while_tuning_is_not_tried_again() -> None:
    plan = plan_of(TINY)
    cells = {c.id: c for c in plan.cells}
    runs = [
        run_of(cells["tiny/ptl-fp32 t1"], 0, None, phase="tune"),
        run_of(cells["tiny/ptl-fp32 t2"], 0, 3.0, phase="tune"),
        run_of(cells["tiny/onnx-fp32 t1"], 0, 1.0, phase="tune"),
    ]
    choice = choose(plan, runs)
    assert set(choice.leaders) == {"tiny/ptl-fp32 t2", "tiny/onnx-fp32 t1"}
    assert "tiny/ptl-fp32 t1" not in {s.cell.id for s in chosen_steps(plan, choice)}


def test_contenders_are_within_twice_the_time_of_their_own_bundles_best() -> None:
    plan = plan_of(BASELINE, TINY, threads=[1])
    times = {"baseline/onnx-fp32 t1": 4.0, "baseline/ptl-fp32 t1": 7.9, "baseline/torchscript-fp32 t1": 8.1}
    times |= {"tiny/onnx-fp32 t1": 0.3, "tiny/ptl-fp32 t1": 1.1}
    choice = choose(plan, [run_of(c, 0, times[c.id], phase="tune") for c in plan.runnable if c.id in times])
    assert set(choice.standing) == {"baseline/onnx-fp32 t1", "baseline/ptl-fp32 t1", "tiny/onnx-fp32 t1"}
    assert set(choice.leaders) == set(times), "each format's best is reported even where another format beats it"


def test_final_rounds_hold_the_leaders_and_the_reference_at_every_thread_count() -> None:
    plan = plan_of(BASELINE, TINY)
    runs = [run_of(c, 0, 10.0 / c.threads, phase="tune") for c in plan.runnable]
    choice = choose(plan, runs)
    steps = chosen_steps(plan, choice)
    finals: dict[int, set[str]] = {}
    for step in steps:
        if step.phase == "final":
            finals.setdefault(step.round, set()).add(step.cell.id)
    assert len(finals) == plan.budget.final_rounds
    expected = {*choice.leaders, "baseline/eager t1", "baseline/eager t2"}
    assert all(ids == expected for ids in finals.values())
    tune_numbers = {s.round for s in tune_steps(plan)}
    assert not tune_numbers & {s.round for s in steps}, "nothing is reported on the rounds that chose it"


def test_memory_runs_come_last_and_once() -> None:
    plan = plan_of(TINY)
    choice = choose(plan, [run_of(c, 0, 1.0, phase="tune") for c in plan.runnable])
    phases = [s.phase for s in chosen_steps(plan, choice)]
    order = list(dict.fromkeys(phases))
    assert order == ["report", "final", "memory"]
    memory = Counter(s.cell.id for s in chosen_steps(plan, choice) if s.phase == "memory")
    assert set(memory.values()) == {1}
    assert {setting(c) for c in plan.runnable} == {setting(c) for c in plan.cells if c.id in memory}


def test_the_expected_duration_is_that_of_the_processes_that_run() -> None:
    plan = plan_of(BASELINE, TINY)
    runs = [run_of(c, 0, 10.0 / c.threads, phase="tune") for c in plan.runnable]
    steps = [*tune_steps(plan), *chosen_steps(plan, choose(plan, runs))]
    assert plan.expected_s == pytest.approx(sum(step_seconds(plan, s) for s in steps), rel=0.3)
    assert [plan_of(TINY, budget=name).expected_s for name in BUDGETS] == sorted(
        plan_of(TINY, budget=name).expected_s for name in BUDGETS
    )
