"""From raw measurements to the ranked table and the Pareto front.

Nothing here measures; everything is derived from a :class:`~harness.records.BenchSet`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.bench.roofline import limit_ms
from harness.bench.rounds import EAGER, choose_tuned
from harness.records import BenchCell, BenchRun, BenchSet, Timing, VariantInstructions
from harness.runners.table import is_gpu
from udacisense.base.records import Outcome, record
from udacisense.measure.stats import NOISY_IQR_FRACTION, Interval, ratio, spread_fraction

_REPORTED = ("report", "final")


@record
class Row:
    """One row of the ranked table. None where it was not measured."""

    cell: BenchCell
    outcome: Outcome
    reason: str | None
    processes: int  # behind the figures
    is_tuning_only: bool  # seen in tune rounds alone: not in contention
    median_ms: float | None  # median of the processes' medians
    p90_ms: float | None  # of all samples of all processes
    p99_ms: float | None
    fps: float | None  # images a second
    spread_fraction: float | None  # between processes: (largest - smallest median) / median
    noisy: bool
    load_ms: float | None
    first_ms: float | None
    tenth_ms: float | None
    peak_rss_bytes: int | None
    floor_ms: float | None  # an identity model through the same runtime
    limit_fraction: float | None  # the host's float32 limit over the median: 1 is the roofline
    speedup: Interval | None  # against the reference, on as many threads
    speedup_tuned: Interval | None  # against the reference at its own best thread count
    is_tie_with_best: bool  # nobody can tell it from the fastest row
    is_tuned: bool  # its variant's chosen thread count
    is_pareto: bool  # no row is at least as good in time, size and accuracy, and better in one
    top1_fraction: float | None
    wrong_answers: bool  # in a process at least, against the golden pack
    warnings: tuple[str, ...]
    instructions: VariantInstructions | None  # of the file, shown where the row's threads and batch are the count's


def rank(measured: BenchSet, *, accuracy: Mapping[tuple[str, str], float] | None = None) -> list[Row]:
    """Return one row a cell: measured ones from fast to slow, then what failed, then what was skipped.

    Args:
        measured: a sweep's set; an interrupted one gives what it has.
        accuracy: (bundle name, variant id) → top-1 fraction as verified; where absent, the float32 master's stands
            in for float32 variants and others have none.
    """
    table = _Table(measured, accuracy or {})
    rows = [table.row(cell) for cell in measured.cells if cell.bundle is not None]
    timed = sorted((row for row in rows if row.median_ms is not None), key=lambda row: row.median_ms or 0.0)
    rest = [row for row in rows if row.median_ms is None]
    rest.sort(key=lambda row: row.outcome is Outcome.SKIPPED)
    front = {row.cell.id for row in pareto([row for row in timed if not is_gpu(row.cell.runner)])}
    best = next((r.cell.id for r in timed if not r.is_tuning_only and not is_gpu(r.cell.runner)), None)
    ranked = [
        replace(
            row,
            is_pareto=row.cell.id in front,
            is_tie_with_best=best is not None and is_tie(measured, row.cell.id, best),
        )
        for row in timed
    ]
    return ranked + rest


def pareto(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that no other row dominates in median time, file size and top-1 (unknown accuracy is 0)."""

    def point(row: Row) -> tuple[float, float, float]:
        return (row.median_ms or float("inf"), float(row.cell.file_bytes or 0), -(row.top1_fraction or 0.0))

    candidates = [row for row in rows if row.median_ms is not None and row.cell.file_bytes is not None]
    return [
        row
        for row in candidates
        if not any(
            all(a <= b for a, b in zip(point(other), point(row), strict=True)) and point(other) != point(row)
            for other in candidates
        )
    ]


@dataclass(frozen=True, kw_only=True)
class Medians:
    """A cell's process medians (ms) by round; from report and final rounds where it took part in them."""

    by_round: dict[int, float]
    is_tuning_only: bool

    def __bool__(self) -> bool:
        return bool(self.by_round)


def reported_medians(measured: BenchSet, cell_id: str) -> Medians:
    """Return what a cell's row is made of."""
    runs = _timed(measured.runs, cell_id)
    reported = {run.round: timing.median_ms for run, timing in runs if run.phase in _REPORTED}
    tuned = {run.round: timing.median_ms for run, timing in runs if run.phase == "tune"}
    return Medians(by_round=reported or tuned, is_tuning_only=not reported)


def all_medians(measured: BenchSet, cell_id: str) -> dict[int, float]:
    """Return a cell's process medians (ms) of every round, to be paired with another cell's reported ones."""
    return {r.round: t.median_ms for r, t in _timed(measured.runs, cell_id) if r.phase in (*_REPORTED, "tune")}


def is_tie(measured: BenchSet, first: str, second: str) -> bool:
    """Whether two cells cannot be told apart: their ratio, paired by round, spans 1, or no round has both."""
    if first == second:
        return True
    made = ratio(all_medians(measured, first), all_medians(measured, second), seed=measured.seed)
    return made is None or made.is_tie


def _timed(runs: Sequence[BenchRun], cell_id: str) -> list[tuple[BenchRun, Timing]]:
    return [(r, r.timing) for r in runs if r.cell_id == cell_id and r.timing is not None]


class _Table:
    """Lookups that every row needs."""

    def __init__(self, measured: BenchSet, accuracy: Mapping[tuple[str, str], float]) -> None:
        self._set = measured
        self._accuracy = accuracy
        self._bundles = {bundle.name: bundle for bundle in measured.bundles}
        self._ceilings = {ceiling.threads: ceiling for ceiling in measured.ceilings}
        self._tuned = {cell.id for cell, _ in choose_tuned(measured.cells, measured.runs)}
        self._instructions = {
            (counted.bundle, counted.variant_id, counted.threads, counted.batch_size): counted
            for counted in measured.instructions
            if counted.outcome is Outcome.PASSED
        }
        self._runs: dict[str, list[BenchRun]] = {}
        for run in measured.runs:
            self._runs.setdefault(run.cell_id, []).append(run)

    def row(self, cell: BenchCell) -> Row:
        outcome, reason = self._outcome(cell)
        medians = reported_medians(self._set, cell.id)
        runs = self._runs.get(cell.id, [])
        phases = ("tune",) if medians.is_tuning_only else _REPORTED
        timings = [r.timing for r in runs if r.phase in phases and r.timing is not None]
        median = float(np.median(list(medians.by_round.values()))) if medians else None
        p25, p75, p90, p99 = _pooled(timings)
        peaks = [r.peak_rss_bytes for r in runs if r.peak_rss_bytes is not None]
        return Row(
            cell=cell,
            outcome=outcome,
            reason=reason,
            processes=len(timings),
            is_tuning_only=medians.is_tuning_only,
            median_ms=median,
            p90_ms=p90,
            p99_ms=p99,
            fps=None if median is None else cell.batch_size * 1e3 / median,
            spread_fraction=spread_fraction(list(medians.by_round.values())),
            noisy=_is_noisy(timings, p25, p75, median),
            load_ms=_middle([t.load_ms for t in timings]),
            first_ms=_middle([t.first_ms for t in timings]),
            tenth_ms=_middle([t.tenth_ms for t in timings if t.tenth_ms is not None]),
            peak_rss_bytes=max(peaks) if peaks else None,
            floor_ms=self._floor_ms(cell),
            limit_fraction=self._limit_fraction(cell, median),
            speedup=self._speedup(cell, self._reference(cell.threads, cell.batch_size)),
            speedup_tuned=self._speedup(cell, self._reference(None, cell.batch_size)),
            is_tie_with_best=False,
            is_tuned=cell.id in self._tuned,
            is_pareto=False,
            top1_fraction=self._top1(cell),
            wrong_answers=any(r.wrong_answers for r in runs),
            warnings=tuple(dict.fromkeys(w for r in runs for w in r.warnings)),
            instructions=self._instructions.get((cell.bundle or "-", cell.variant_id, cell.threads, cell.batch_size)),
        )

    def _outcome(self, cell: BenchCell) -> tuple[Outcome, str | None]:
        if cell.skip_reason is not None:
            return Outcome.SKIPPED, cell.skip_reason
        runs = self._runs.get(cell.id, [])
        for outcome in (Outcome.FAILED, Outcome.SKIPPED):
            for run in runs:
                if run.outcome is outcome:
                    return outcome, run.reason
        return (Outcome.PASSED, None) if runs else (Outcome.SKIPPED, "the sweep ended before it ran")

    def _reference(self, threads: int | None, batch_size: int) -> str | None:
        """Return the reference's cell id at a thread count, or at its best one for None."""
        cells = {cell.id: cell for cell in self._set.cells}
        if self._set.reference not in cells:
            return None
        bundle = cells[self._set.reference].bundle
        for cell in cells.values():
            if (cell.bundle, cell.format, cell.batch_size) == (bundle, EAGER, batch_size) and (
                cell.id in self._tuned if threads is None else cell.threads == threads
            ):
                return cell.id
        return None

    def _speedup(self, cell: BenchCell, reference: str | None) -> Interval | None:
        if reference is None:
            return None
        medians = reported_medians(self._set, cell.id)
        return ratio(all_medians(self._set, reference), medians.by_round, seed=self._set.seed)

    def _floor_ms(self, cell: BenchCell) -> float | None:
        values = [
            timing.median_ms
            for floor in self._set.cells
            if floor.bundle is None and floor.runner == cell.runner
            for _, timing in _timed(self._set.runs, floor.id)
        ]
        return _middle(values)

    def _limit_fraction(self, cell: BenchCell, median_ms: float | None) -> float | None:
        ceiling, bundle = self._ceilings.get(cell.threads), self._bundles.get(cell.bundle or "")
        if median_ms is None or ceiling is None or bundle is None or is_gpu(cell.runner):
            return None  # the ceilings are the CPU's
        return limit_ms(bundle, ceiling, batch_size=cell.batch_size) / median_ms

    def _top1(self, cell: BenchCell) -> float | None:
        known = self._accuracy.get((cell.bundle or "-", cell.variant_id))
        bundle = self._bundles.get(cell.bundle or "")
        if known is not None or bundle is None:
            return known
        return bundle.top1_fraction if cell.precision == "fp32" else None


def _pooled(timings: Sequence[Timing]) -> tuple[float | None, float | None, float | None, float | None]:
    values = [sample for timing in timings for sample in timing.samples_ms]
    if not values:
        return None, None, None, None
    p25, p75, p90, p99 = (float(q) for q in np.percentile(values, [25, 75, 90, 99]))
    return p25, p75, p90, p99


def _is_noisy(timings: Sequence[Timing], p25: float | None, p75: float | None, median_ms: float | None) -> bool:
    """All samples together spread too far, or half of the processes were noisy by themselves."""
    if p25 is None or p75 is None or median_ms is None:
        return False
    return (p75 - p25) / median_ms > NOISY_IQR_FRACTION or 2 * sum(t.noisy for t in timings) >= len(timings)


def _middle(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None
