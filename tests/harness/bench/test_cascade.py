"""The time of a cascade is that of its members, by turns, times the images that reach each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from bench_records import counted as counts_of
from bench_records import make_source, make_variant, plan_of, run_of, set_of
from report_records import comparison, verified_cell

from harness.bench.advice import verdicts
from harness.bench.cascade import by_member, cascade_rows, check_cascade, with_ways
from harness.bench.ranking import rank
from harness.gate.figures import find_times
from harness.host import read_host
from harness.records import (
    Asked,
    BenchedCascade,
    BenchedMember,
    BenchSet,
    MeasurementSet,
)
from udacisense.base.records import Outcome
from udacisense.errors import InputError

SHARES = (1.0, 0.25)


@pytest.fixture(scope="module")
def measured() -> BenchSet:
    """The eager baseline at 10 ms, and a cascade of files of 0.2 and 1.2 ms: 0.5 ms on average."""
    times = {"baseline": 10.0, "c.small": 0.2, "c.large": 1.2}
    sources = [make_source("baseline"), *(make_source(n, make_variant("ptl-fp32")) for n in ("c.small", "c.large"))]
    sources = [replace(s, bundle=replace(s.bundle, sha256=s.bundle.name)) for s in sources]
    plan = plan_of(*sources, threads=(1,), reference="baseline")
    cells = [cell for cell in plan.cells if cell.bundle is not None and cell.skip_reason is None]
    runs = [
        run_of(cell, number, times[cell.bundle or ""] * (1 + 0.01 * number)) for cell in cells for number in range(10)
    ]
    cascade = BenchedCascade(
        name="c",
        sha256="joined",
        members=tuple(
            BenchedMember(bundle=f"c.{name}", variants={"ptl-fp32": f"{name}.ptl-fp32"}) for name in ("small", "large")
        ),
        reached_fractions=SHARES,
        top1_fraction=0.852,
        n_images=1000,
        baseline_top1_fraction=0.862,
    )
    return replace(set_of(plan, runs), cascades=(cascade,))


def test_the_mean_is_over_images_and_the_speed_up_over_rounds(measured: BenchSet) -> None:
    rows = [row for row in cascade_rows(measured, rank(measured)) if row.runner == "lite"]
    assert [row.id for row in rows] == ["c/ptl-fp32 t1"]
    (row,) = rows
    assert row.mean_ms == pytest.approx(0.5 * 1.045)  # 0.2 + 0.25 * 1.2, in the middle round
    assert row.median_ms == pytest.approx(0.2 * 1.045)  # three quarters of the images end there
    assert row.worst_ms == pytest.approx(1.4 * 1.045)
    assert row.file_bytes == 2_000_000
    assert row.speedup is not None
    assert (row.speedup.value, row.speedup.low) == (pytest.approx(20.0), pytest.approx(20.0))
    assert (row.is_verified, row.top1_fraction) == (False, 0.852)


def test_a_verification_gives_the_shares_of_the_very_files(measured: BenchSet) -> None:
    found = _verified(reached=(1.0, 0.75), top1=0.8)
    row = next(row for row in cascade_rows(measured, rank(measured), [found]) if row.runner == "lite")
    assert row.reached_fractions == (1.0, 0.75)
    assert row.mean_ms == pytest.approx(1.1 * 1.045)
    assert row.median_ms == pytest.approx(1.4 * 1.045)
    assert (row.is_verified, row.top1_fraction) == (True, 0.8)
    other = replace(found, bundle_sha256="another")
    assert not cascade_rows(measured, rank(measured), [other])[0].is_verified


def test_arm_instructions_are_the_mean_over_images(measured: BenchSet, tmp_path: Path) -> None:
    counted = replace(
        measured, instructions=(counts_of("c.small", "ptl-fp32", 2e6), counts_of("c.large", "ptl-fp32", 12e6))
    )
    for known, mean in (([], 5e6), ([_verified(reached=(1.0, 0.75), top1=0.8)], 11e6)):
        *files, way = with_ways(counted.instructions, counted.cascades, known)
        assert files == list(counted.instructions)
        assert (way.bundle, way.variant_id, way.instructions_per_call) == ("c", "ptl-fp32", pytest.approx(mean))
        assert way.spread_fraction == pytest.approx(0.01)
        rows = cascade_rows(counted, rank(counted), known)
        assert [row.instructions for row in rows if row.runner == "lite"] == [pytest.approx(mean)]
    assert way.macs == 1_750_000
    alone = with_ways(counted.instructions[:1], counted.cascades)
    assert alone == [counted.instructions[0]]  # one member was not counted: no mean
    found = find_times(counted, "joined", tmp_path, _verified(reached=(1.0, 0.75), top1=0.8)).instructions
    assert found == {"small.ptl-fp32": 2e6, "large.ptl-fp32": 12e6, "ptl-fp32": pytest.approx(11e6)}


def test_a_member_s_file_is_chosen_by_its_id_in_the_cascade_too() -> None:
    sources = [make_source(n, make_variant("ptl-fp32")) for n in ("c.small", "c.large")]
    plan = plan_of(*sources, threads=(1,), variants=("small.ptl-fp32",))
    assert {cell.bundle for cell in plan.cells if cell.format == "ptl"} == {
        "c.small",
        None,
    }  # None: the empty model of the runtime
    with pytest.raises(InputError, match=r"No bundle holds other\.ptl-fp32"):
        plan_of(*sources, variants=("other.ptl-fp32",))


def test_what_is_verified_of_a_cascade_is_known_of_its_members_files(measured: BenchSet) -> None:
    found = _verified(reached=SHARES, top1=0.8)
    spec = found.measurements[0].spec
    bad = replace(found.measurements[0], spec=replace(spec, variant_id="large.ptl-fp32"), outcome=Outcome.FAILED)
    record = replace(found, measurements=(*found.measurements, bad))
    assert verdicts(measured, [record]).failed == {("c.large", "ptl-fp32")}
    assert len(by_member(measured, [record])) == 3


def test_the_requirements_are_those_of_a_cascade_and_need_the_baseline(measured: BenchSet) -> None:
    rows = [row for row in cascade_rows(measured, rank(measured)) if row.runner == "lite"]
    held = {r.requirement: r for r in check_cascade(measured.cascades[0], rows, measured.reference)}
    assert held["mean time reduction, .ptl: ptl-fp32"].measured == pytest.approx(95.0)
    assert held["mean time reduction, .ptl: ptl-fp32"].passed
    assert held["size of its files"].measured == 2.0
    assert not held["size of its files"].passed
    lost = held["top-1 accuracy lost"]
    assert (lost.measured, lost.passed) == (pytest.approx(1.0), True)
    slower = [replace(row, speedup=replace(row.speedup, value=9.0)) for row in rows if row.speedup]
    again = check_cascade(measured.cascades[0], slower, measured.reference)
    assert [r.passed for r in again if r.unit == "%"] == [False, False]
    assert check_cascade(measured.cascades[0], rows, "c.large/eager t1") == ()
    small = replace(rows[0], way="ptl-int8", mean_ms=9.0, file_bytes=1_000_000)
    both = check_cascade(measured.cascades[0], [*rows, small], measured.reference)
    assert {r.requirement: r.measured for r in both}[
        "size of its files"
    ] == 1.0  # what fits comes before what is faster


def _verified(*, reached: tuple[float, ...], top1: float) -> MeasurementSet:
    asked = Asked(n_otherwise=0, reached_fractions=reached, reference_reached_fractions=reached)
    found = replace(comparison((), (), n=100), top1_fraction=top1, reference_top1_fraction=top1, asked=asked)
    row = verified_cell("ptl-fp32", "lite", comparison=found)
    return MeasurementSet(
        schema_version=1,
        kind="verify",
        created_utc="2026-01-01T00:00:00+00:00",
        bundle="c",
        bundle_sha256="joined",
        host=read_host(),
        inputs="100 images",
        seed=0,
        measurements=(row,),
    )
