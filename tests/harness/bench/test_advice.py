"""What may be recommended: no file that failed, that verification speaks against, or that an emulator timed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
import pytest
from bench_records import make_source, make_variant, measurement_of, plan_of, run_of, runs_of, set_of

from harness.bench.advice import cautions, eligible, recommend, recommendations, verdicts
from harness.bench.ranking import rank
from harness.records import BenchCell, BenchSet, Comparison, MeasurementSet
from harness.verify.compare import compare
from udacisense.base.records import Outcome

SOURCE = make_source("baseline", make_variant("ptl-fp32"), make_variant("onnx-fp32"))
TIMES = {
    "baseline/eager t1": 10.0,
    "baseline/ptl-fp32 t1": 5.0,
    "baseline/onnx-fp32 t1": 2.0,  # the fastest: recommended where nothing speaks against it
}


def measured() -> BenchSet:
    plan = plan_of(SOURCE, threads=[1])
    return set_of(plan, runs_of(plan, TIMES))


def failing(made: BenchSet, cell_id: str) -> BenchSet:
    """One report round more, in which a cell's process dies."""
    cell = next(cell for cell in made.cells if cell.id == cell_id)
    return dataclasses.replace(made, runs=(*made.runs, run_of(cell, 9, None)))


def verified(
    variant_id: str,
    made: BenchSet,
    *,
    runner: str = "onnxruntime",
    outcome: Outcome = Outcome.PASSED,
    comparison: Comparison | None = None,
) -> MeasurementSet:
    """A record of verify that names one variant."""
    cell = dataclasses.replace(made.cells[0], variant_id=variant_id, runner=runner)
    blank = measurement_of(cell, made.runs[0], made.budget)
    measurement = dataclasses.replace(blank, comparison=comparison, timing=None, outcome=outcome)
    return MeasurementSet(
        schema_version=1,
        kind="verify",
        created_utc="2026-01-01T00:00:00+00:00",
        bundle="/nowhere",
        bundle_sha256=made.bundles[0].sha256,
        host=made.host,
        inputs="invented",
        seed=0,
        measurements=(measurement,),
    )


def comparison_of(*, images: int, wrong: int) -> Comparison:
    """A float32 master that is always right, against a file that is wrong on some images."""
    labels = np.arange(images, dtype=np.int64) % 10
    master = np.eye(10, dtype=np.float32)[labels]
    answers = np.roll(master, 1, axis=1)
    answers[wrong:] = master[wrong:]
    return compare(answers, master, master, labels=labels, class_names=tuple("abcdefghij"), rtol=0.0, atol=10.0)


def setting_of(made: BenchSet, verifications: Iterable[MeasurementSet] | None = None) -> BenchCell:
    """The cell that the sweep's record recommends."""
    (found,) = recommendations(made, rank(made), verifications)
    return next(cell for cell in made.cells if cell.id == found.cell_id)


def test_what_failed_in_a_round_is_not_recommended() -> None:
    made = measured()
    assert setting_of(made).variant_id == "onnx-fp32"
    crashed = failing(made, "baseline/onnx-fp32 t1")
    assert setting_of(crashed).variant_id == "ptl-fp32"
    text = recommend(crashed)
    assert "baseline: `ptl-fp32` on lite" in text
    assert "faster, but not recommended: `onnx-fp32` (failed in a round: signal 11 (SIGSEGV))" in text


def test_where_every_file_failed_the_sentence_says_so() -> None:
    made = failing(failing(measured(), "baseline/onnx-fp32 t1"), "baseline/ptl-fp32 t1")
    assert recommendations(made, rank(made)) == ()
    told = recommend(made)
    assert "no file can be recommended: `onnx-fp32`, `ptl-fp32` (failed in a round: signal 11 (SIGSEGV))." in told
    assert "let it run to its end" not in told


def test_what_failed_verification_is_not_recommended() -> None:
    made = measured()
    records = [verified("onnx-fp32", made, outcome=Outcome.FAILED), verified("ptl-fp32", made, runner="lite")]
    assert setting_of(made, records).variant_id == "ptl-fp32"
    text = recommend(made, verifications=records)
    assert "baseline: `ptl-fp32` on lite" in text
    assert "`onnx-fp32` (failed verification)" in text
    assert "not verified" not in text
    stranger = dataclasses.replace(records[0], bundle_sha256="1" * 64)
    assert setting_of(made, [stranger]).variant_id == "onnx-fp32", "a record of another bundle says nothing here"


def test_a_file_that_passed_on_one_runner_and_failed_on_another_is_not_recommended() -> None:
    made = measured()
    records = [
        verified("onnx-fp32", made),
        verified("onnx-fp32", made, runner="onnxruntime-xnnpack", outcome=Outcome.FAILED),
    ]
    assert setting_of(made, records).variant_id == "ptl-fp32"


def test_what_was_not_verified_is_called_so() -> None:
    made = measured()
    assert "`onnx-fp32` on onnxruntime, 1 thread" in recommend(made, verifications=[])
    assert "not verified" in recommend(made, verifications=[])
    assert "not verified" in recommend(made, verifications=[verified("ptl-fp32", made, runner="lite")])
    skipped = verified("onnx-fp32", made, outcome=Outcome.SKIPPED)
    assert "not verified" in recommend(made, verifications=[skipped]), "skipped never counts as passed"
    assert "not verified" not in recommend(made, verifications=[verified("onnx-fp32", made)])
    assert "not verified" not in recommend(made), "who did not look cannot tell"


@pytest.mark.parametrize(("wrong", "chosen"), [(5, "onnx-fp32"), (6, "ptl-fp32")])
def test_what_lost_over_five_points_is_not_recommended(wrong: int, chosen: str) -> None:
    made = measured()
    records = [verified("onnx-fp32", made, comparison=comparison_of(images=100, wrong=wrong))]
    assert setting_of(made, records).variant_id == chosen
    text = recommend(made, verifications=records)
    assert ("lost 6.0 points of top-1 on 100 images" in text) == (chosen != "onnx-fp32")


def test_accuracy_on_a_part_of_the_images_is_left_out() -> None:
    made = measured()
    few = comparison_of(images=4, wrong=1)
    for runner in ("android-arm64", "android-app"):
        assert verdicts(made, [verified("onnx-fp32", made, runner=runner, comparison=few)]).lost == {}


def test_what_an_emulator_timed_is_not_recommended_and_noted() -> None:
    plan = plan_of(SOURCE, threads=[1], unavailable={})
    emulated = "baseline/ptl-fp32[android-x86_64] t1"
    made = set_of(plan, runs_of(plan, {**TIMES, emulated: 0.5}))
    ranked = rank(made)
    assert ranked[0].cell.id == emulated
    assert emulated not in {row.cell.id for row in eligible(ranked, "baseline")}
    assert setting_of(made).runner == "onnxruntime"
    notes = [note for note in cautions(made, ranked) if "android-x86_64" in note]
    assert len(notes) == 1
    assert "emulator on a PC" in notes[0]
    assert not [note for note in cautions(measured(), rank(measured())) if "android-x86_64" in note]
