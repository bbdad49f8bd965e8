"""The time of a cascade, from those of its members, which a sweep times by turns.

How long a file takes does not depend on what an image shows; who is asked does. The mean over images is therefore each
member's time, times the share of real images that reach it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from harness.bench.ranking import Row, all_medians, reported_medians
from harness.records import BenchedCascade, BenchSet, MeasurementSet, VariantInstructions
from harness.runners.table import stand_in
from udacisense.base.records import Fraction, Outcome, Positive, record
from udacisense.measure.stats import Interval, ratio
from udacisense.pipeline.requirements import (
    MAX_CASCADE_BYTES,
    MIN_CASCADE_FASTER_PERCENT,
    MIN_CASCADE_PTL_FASTER_PERCENT,
    Requirement,
    check_fast_cascade,
)


@record
class CascadeRow:
    """One way to run a cascade: files of one kind, in one runtime, on so many threads."""

    cascade: str
    way: str  # id of :meth:`exporters.bundle.manifest.Manifest.ways`
    format: str
    runner: str
    engine: str | None
    threads: int
    reached_fractions: tuple[Fraction, ...]  # of the images, that reach each member; the first is 1
    is_verified: bool  # these shares are the files' own; else those of the float32 models
    means_ms: tuple[Positive, ...]  # over images, of each round
    mean_ms: Positive  # the median of those
    median_ms: Positive  # of the image in the middle
    worst_ms: Positive  # of an image that every member is asked of
    speedup: Interval | None  # of the mean, against the sweep's reference on as many threads; 95 %
    top1_fraction: Fraction | None
    file_bytes: int
    instructions: float | None  # ARM instructions, the mean over images
    noisy: bool
    members: tuple[str, ...]  # cell ids

    @property
    def id(self) -> str:
        """The name of the row."""
        return f"{self.cascade}/{self.way}{f'@{self.engine}' if self.engine else ''} t{self.threads}"


def cascade_rows(
    measured: BenchSet, ranked: Sequence[Row], verifications: Iterable[MeasurementSet] = ()
) -> list[CascadeRow]:
    """Return one row for each way to run a cascade that was timed whole, from fast to slow by the mean.

    Args:
        measured: a sweep.
        ranked: its rows.
        verifications: on labelled images they give the shares of the very files.
    """
    known = list(verifications)
    rows = [row for cascade in measured.cascades for row in _rows(measured, ranked, cascade, known)]
    return sorted(rows, key=lambda row: row.mean_ms)


def _rows(
    measured: BenchSet, ranked: Sequence[Row], cascade: BenchedCascade, known: Sequence[MeasurementSet]
) -> Iterator[CascadeRow]:
    by_setting: dict[tuple[str, str, str | None, int], list[Row]] = {}
    for member in cascade.members:
        for row in ranked:
            cell = row.cell
            if cell.bundle == member.bundle and row.median_ms is not None and cell.batch_size == 1:
                by_setting.setdefault((cell.variant_id, cell.runner, cell.engine, cell.threads), []).append(row)
    counts = {
        one.variant_id: one for one in with_ways(measured.instructions, [cascade], known) if one.bundle == cascade.name
    }
    for (way, _, _, threads), rows in by_setting.items():
        if way in cascade.members[0].variants and len(rows) == len(cascade.members):
            count = counts.get(way)
            instructions = count.instructions_per_call if count is not None and count.threads == threads else None
            yield _row(measured, cascade, rows, known, instructions)


def _shares(
    cascade: BenchedCascade, way: str, known: Sequence[MeasurementSet]
) -> tuple[tuple[float, ...], float | None, bool]:
    """Return which shares of labelled images reach each member, the accuracy, and whether both are the files' own.

    Else they are those of the float32 models, as the cascade's record has them.
    """
    compared = [
        m.comparison
        for verification in known
        if verification.bundle_sha256 == cascade.sha256
        for m in verification.measurements
        if m.spec.variant_id == way and m.comparison is not None and m.comparison.top1_fraction is not None
    ]
    widest = max((c for c in compared if c.asked is not None), key=lambda c: c.n_inputs, default=None)
    if widest is None or widest.asked is None:
        return cascade.reached_fractions, cascade.top1_fraction, False
    return widest.asked.reached_fractions, widest.top1_fraction, True


def with_ways(
    counted: Sequence[VariantInstructions],
    cascades: Sequence[BenchedCascade],
    verifications: Iterable[MeasurementSet] = (),
) -> list[VariantInstructions]:
    """Return counts, and for each way to run a cascade whose every file was counted, the mean over images.

    Args:
        counted: of files.
        cascades: of the sweep.
        verifications: on labelled images they give the shares of the very files.
    """
    known, made = list(verifications), list(counted)
    by_file = {(one.bundle, one.variant_id): one for one in counted if one.outcome is Outcome.PASSED}
    for cascade in cascades:
        for way in cascade.members[0].variants:
            parts = [by_file.get((member.bundle, way)) for member in cascade.members]
            files = [part for part in parts if part is not None]
            if len(files) == len(parts):
                made.append(_mean_count(cascade, way, files, known))
    return made


def _row(
    measured: BenchSet,
    cascade: BenchedCascade,
    rows: Sequence[Row],
    known: Sequence[MeasurementSet],
    instructions: float | None,
) -> CascadeRow:
    first = rows[0].cell
    shares, top1, is_verified = _shares(cascade, first.variant_id, known)
    reported = [reported_medians(measured, row.cell.id).by_round for row in rows]
    if not _shared(reported):  # one member was in contention, the other was not
        reported = [all_medians(measured, row.cell.id) for row in rows]
    means = {n: sum(s * t[n] for s, t in zip(shares, reported, strict=True)) for n in _shared(reported)}
    times = [row.median_ms or 0.0 for row in rows]
    mean_ms = (
        float(np.median(list(means.values()))) if means else sum(s * t for s, t in zip(shares, times, strict=True))
    )
    middle = sum(t for s, t in zip(shares, times, strict=True) if s > 0.5)
    reference = measured.reference.rpartition(" t")[0] + f" t{first.threads}"
    return CascadeRow(
        cascade=cascade.name,
        way=first.variant_id,
        format=first.format,
        runner=first.runner,
        engine=first.engine,
        threads=first.threads,
        reached_fractions=tuple(shares),
        is_verified=is_verified,
        means_ms=tuple(means.values()),
        mean_ms=mean_ms,
        median_ms=middle,
        worst_ms=sum(times),
        speedup=ratio(all_medians(measured, reference), means, seed=measured.seed, confidence=0.95) if means else None,
        top1_fraction=top1 if is_verified or first.precision == "fp32" else None,
        file_bytes=sum(row.cell.file_bytes or 0 for row in rows),
        instructions=instructions,
        noisy=any(row.noisy for row in rows),
        members=tuple(row.cell.id for row in rows),
    )


def check_cascade(cascade: BenchedCascade, rows: Sequence[CascadeRow], reference: str) -> tuple[Requirement, ...]:
    """Return the requirement rows of a cascade; nothing where it was not timed beside the model that it replaces.

    Args:
        cascade: of a sweep.
        rows: of the sweep, from fast to slow.
        reference: the sweep's.
    """
    own = [row for row in rows if row.cascade == cascade.name and row.speedup and stand_in(row.runner) is None]
    # One way must fulfil everything: what is small enough comes first.
    own.sort(key=lambda row: row.file_bytes > MAX_CASCADE_BYTES)
    if not own or reference.partition("/")[0] in {member.bundle for member in cascade.members}:
        return ()
    chosen = {f"mean time reduction, best: {own[0].way}": (own[0], MIN_CASCADE_FASTER_PERCENT)}
    if ptl := next((row for row in own if row.format == "ptl"), None):
        chosen[f"mean time reduction, .ptl: {ptl.way}"] = (ptl, MIN_CASCADE_PTL_FASTER_PERCENT)
    right = [row.top1_fraction for row, _ in chosen.values() if row.top1_fraction is not None]
    return check_fast_cascade(
        speedups={name: (row.speedup, limit) for name, (row, limit) in chosen.items() if row.speedup is not None},
        file_bytes=max(row.file_bytes for row, _ in chosen.values()),
        baseline_top1=cascade.baseline_top1_fraction,
        top1=min(right, default=None),
        n_images=cascade.n_images,
    )


def _shared(by_round: Sequence[Mapping[int, float]]) -> list[int]:
    return sorted(set.intersection(*(set(found) for found in by_round)))


def _mean_count(
    cascade: BenchedCascade, way: str, files: Sequence[VariantInstructions], known: Sequence[MeasurementSet]
) -> VariantInstructions:
    """Return the mean over images: each file's count, times the share of the images that reach it."""
    shares, _, _ = _shares(cascade, way, known)
    counts = [share * (one.instructions_per_call or 0.0) for share, one in zip(shares, files, strict=True)]
    spreads = [count * (one.spread_fraction or 0.0) for count, one in zip(counts, files, strict=True)]
    return replace(
        files[-1],
        bundle=cascade.name,
        macs=round(sum(share * one.macs for share, one in zip(shares, files, strict=True))),
        instructions_per_call=sum(counts),
        spread_fraction=sum(spreads) / sum(counts),
        reason=None,
    )


def by_member(measured: BenchSet, verifications: Iterable[MeasurementSet]) -> list[MeasurementSet]:
    """Return the records, and of those of a cascade what each says of a member's own bundle, as a sweep names it."""
    given = list(verifications)
    sha256 = {bundle.name: bundle.sha256 for bundle in measured.bundles}
    made = []
    for cascade in measured.cascades:
        for member in cascade.members:
            own = {joined: own for own, joined in member.variants.items()}
            made += [
                replace(
                    record,
                    bundle_sha256=sha256[member.bundle],
                    measurements=tuple(
                        replace(m, spec=replace(m.spec, variant_id=own[m.spec.variant_id]))
                        for m in record.measurements
                        if m.spec.variant_id in own
                    ),
                )
                for record in given
                if record.bundle_sha256 == cascade.sha256
            ]
    return [*given, *made]
