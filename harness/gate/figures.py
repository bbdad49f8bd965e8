"""What is known of a bundle's variants: accuracy, size, and a time that may ship."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.bench.advice import eligible, objection, verdicts
from harness.bench.cascade import CascadeRow, cascade_rows, with_ways
from harness.bench.ranking import Row, rank, reported_medians
from harness.records import BenchSet, Certainty, Measurement, MeasurementSet
from udacisense.base.records import Count, Outcome, Positive, record
from udacisense.errors import InputError


@record
class Figures:
    """What is known of one variant; None where it was not measured."""

    variant_id: str
    top1_fraction: float | None
    reference_top1_fraction: float | None
    n_images: Count | None
    file_bytes: Count | None
    median_ms: Positive | None  # at its best setting among those that may ship; of a cascade: the mean over images
    speedup: float | None
    noisy: bool
    medians_ms: tuple[Positive, ...] = ()  # of the processes behind it, by which a later run is judged
    certainty: Certainty | None = None  # of the cell that moved most
    unknown_taken_fraction: float | None = None  # of the cell that takes most
    shift_lost_points: float | None = None  # of the cell that loses most
    arm_instructions: Positive | None = None  # of a call; of a cascade: the mean over images


@dataclass(frozen=True, kw_only=True)
class Timed:
    """What a sweep says of a bundle's variants."""

    bench: BenchSet
    best: dict[str, Row]  # of each variant, the fastest row that may ship
    why_not: dict[str, str]  # of variants without one
    ways: dict[str, CascadeRow]  # of each way to run a cascade, the fastest that may ship
    instructions: dict[str, float]  # ARM instructions of a call, where they were counted

    def reason(self, variant_id: str) -> str:
        """Say why a variant has no time."""
        why = self.why_not.get(variant_id)
        return "it was not timed" if why is None else f"no time that may ship: {why}"


def find_times(bench: BenchSet, sha256: str, path: Path, verification: MeasurementSet | None) -> Timed:
    """Choose the fastest row of each variant that may ship: batch 1, by the same rules as a recommendation.

    Raises:
        InputError: the sweep has no figures of this bundle; ``path`` names it.
    """
    known = None
    if verification is not None:
        # Lost accuracy is held against the requirements' own limit.
        known = replace(verdicts(bench, [verification]), lost={})
    cascade = next((found for found in bench.cascades if found.sha256 == sha256), None)
    ids = {member.bundle: member.variants for member in cascade.members} if cascade else {}
    names = [*ids, *(b.name for b in bench.bundles if b.sha256 == sha256)]
    if not names:
        raise InputError(f"The bench has no figures of {path} as it is now; bench it again.")
    ranked, made = rank(bench), Timed(bench=bench, best={}, why_not={}, ways={}, instructions={})
    for name in names:
        rows = [row for row in ranked if row.cell.bundle == name and row.cell.batch_size == 1]
        own = ids.get(name, {})
        for row in eligible(rows, name, known):  # from fast to slow
            made.best.setdefault(own.get(row.cell.variant_id, row.cell.variant_id), row)
        for row in (row for row in rows if row.is_tuned or row.median_ms is None):
            why = objection(row, known) or "timed in the tuning rounds alone; bench it by itself with --variant"
            made.why_not.setdefault(own.get(row.cell.variant_id, row.cell.variant_id), why)
    fine = {row.cell.id for row in ranked if objection(row, known) is None}
    verified = [verification] if verification else []
    for one in with_ways(bench.instructions, [cascade] if cascade else [], verified):
        if one.instructions_per_call is not None and one.bundle in (*names, *([cascade.name] if cascade else [])):
            own = ids.get(one.bundle, {})
            made.instructions[own.get(one.variant_id, one.variant_id)] = one.instructions_per_call
    for way in cascade_rows(bench, ranked, verified):
        if cascade and way.cascade == cascade.name and fine.issuperset(way.members):
            made.ways.setdefault(way.way, way)
    return made


def join_figures(variant_id: str, cells: Sequence[Measurement], file_bytes: int | None, timed: Timed | None) -> Figures:
    """Join what is known. Of several cells the widest comparison counts, and of those the worst accuracy."""
    compared = [m.comparison for m in cells if m.comparison is not None and m.outcome is not Outcome.SKIPPED]
    widest = max((c.n_inputs for c in compared), default=0)
    judged = [c for c in compared if c.n_inputs == widest and c.top1_fraction is not None]
    worst = min(judged, key=lambda c: c.top1_fraction or 0.0, default=None)
    sure = [c.certainty for c in compared if c.n_inputs == widest and c.certainty is not None]
    row = None if timed is None else timed.best.get(variant_id)
    way = None if timed is None else timed.ways.get(variant_id)
    medians = () if timed is None or row is None else reported_medians(timed.bench, row.cell.id).by_round.values()
    gain = way.speedup if way is not None else None if row is None else row.speedup
    return Figures(
        variant_id=variant_id,
        top1_fraction=None if worst is None else worst.top1_fraction,
        reference_top1_fraction=None if worst is None else worst.reference_top1_fraction,
        n_images=None if worst is None else worst.n_inputs,
        file_bytes=file_bytes,
        median_ms=way.mean_ms if way is not None else None if row is None else row.median_ms,
        speedup=None if gain is None else gain.value,
        noisy=(row is not None and row.noisy) or (way is not None and way.noisy),
        medians_ms=tuple(medians) if way is None else way.means_ms,
        certainty=max(sure, key=lambda found: found.mean_moved, default=None),
        unknown_taken_fraction=max((c.unknown.taken_fraction for c in compared if c.unknown), default=None),
        arm_instructions=None if timed is None else timed.instructions.get(variant_id),
        shift_lost_points=max((c.shifts.lost_points for c in compared if c.shifts), default=None),
    )
