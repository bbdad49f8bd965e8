"""ARM instructions per call as a column of a benchmark: which variants are counted, and what their counts say.

A count is no time and is never ranked with times; where the two disagree about the variant to prefer, that is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from exporters.bundle.manifest import Variant
from exporters.bundle.open import Bundle, open_bundle
from exporters.formats.contract import SUFFIXES
from harness.bench.cells import is_wanted
from harness.bench.ranking import Row, is_tie
from harness.records import BenchedBundle, BenchSet, VariantInstructions
from harness.runtime import count as android
from udacisense.base.records import Outcome
from udacisense.errors import InferenceError, LoadError

THREADS = 1
ABOUT_S = 15.0  # that a variant takes


def count_variants(
    bundles: Iterable[BenchedBundle], wanted: Sequence[tuple[str, str]]
) -> Iterator[VariantInstructions]:
    """Count one variant after the other; one that would not load or run is a failed count.

    Args:
        bundles: that hold them.
        wanted: (bundle name, variant id).

    Raises:
        InputError: counting is not possible here; says what to add.
    """
    for benched in bundles:
        bundle = open_bundle(Path(benched.path))
        for variant in bundle.manifest.variants:
            if (benched.name, variant.id) in wanted:
                yield _count(benched, bundle, variant)


def countable(bundles: Iterable[BenchedBundle], variants: Sequence[str] | None = None) -> list[tuple[str, str]]:
    """Return (bundle name, variant id) of everything that can be counted here; ``variants`` keeps these ids alone."""
    return [(name, variant.id) for name, variant in _whole(bundles, variants) if _reason(variant.format) is None]


def left_out(bundles: Iterable[BenchedBundle], variants: Sequence[str] | None = None) -> tuple[str, ...]:
    """Say which formats of the bundles are not counted, and why: no counter, or one that cannot work here."""
    formats = dict.fromkeys(variant.format for _, variant in _whole(bundles, variants))
    return tuple(
        f"{SUFFIXES[form]} is not counted: {reason}" for form in formats if (reason := _reason(form)) is not None
    )


def _reason(form: str) -> str | None:
    """Return why files of a format cannot be counted here, or None where they can."""
    if form not in android.COUNTERS:
        return f"there is a counter for {', '.join(SUFFIXES[known] for known in android.COUNTERS)} alone"
    return android.cannot_count(android.COUNTERS[form])


def _whole(bundles: Iterable[BenchedBundle], variants: Sequence[str] | None) -> Iterator[tuple[str, Variant]]:
    """Yield the bundle's name and the variant of every whole file that was asked for."""
    for benched in bundles:
        for variant in open_bundle(Path(benched.path)).manifest.variants:
            if is_wanted(benched.name, variant.id, variants) and variant.outcome is Outcome.PASSED:
                yield benched.name, variant


def _count(benched: BenchedBundle, bundle: Bundle, variant: Variant) -> VariantInstructions:
    batch = variant.batch or 1
    images = np.repeat(bundle.golden_inputs()[:1], batch, axis=0)
    counted, reason = None, None
    try:
        counted = android.count(bundle.path(str(variant.path)), images, threads=THREADS, batch_size=batch)
    except (LoadError, InferenceError) as exc:
        reason = str(exc)
    return VariantInstructions(
        bundle=benched.name,
        variant_id=variant.id,
        runtime=android.COUNTERS[variant.format],
        threads=THREADS,
        batch_size=batch,
        macs=benched.flops // 2 * batch,
        instructions_per_call=counted.instructions_per_call if counted else None,
        spread_fraction=counted.spread_fraction if counted else None,
        runs=counted.runs if counted else None,
        library=counted.library if counted else None,
        cpu=counted.cpu if counted else None,
        outcome=Outcome.PASSED if counted else Outcome.FAILED,
        reason=reason,
    )


def disagreements(measured: BenchSet, ranked: Sequence[Row]) -> tuple[str, ...]:
    """Say, by bundle, where this host's times and ARM instructions prefer different files: in a runner, and of all."""
    rows = [row for row in ranked if row.instructions is not None and row.median_ms is not None]
    told = []
    for bundle in dict.fromkeys(row.cell.bundle or "-" for row in rows):
        own = [row for row in rows if (row.cell.bundle or "-") == bundle]
        for runner in dict.fromkeys(row.cell.runner for row in own):
            fastest, fewest = _preferred([row for row in own if row.cell.runner == runner])
            told += _disagreement(measured, fastest, fewest, f"{bundle} in {runner}")
        fastest, fewest = _preferred(own)
        if android.COUNTERS.get(fastest.cell.format) != android.COUNTERS.get(fewest.cell.format):
            told += _disagreement(measured, fastest, fewest, f"{bundle} in any runner")
    return tuple(told)


def _preferred(rows: Sequence[Row]) -> tuple[Row, Row]:
    """Return the row that this host's times prefer, and the one that ARM instructions do."""
    return min(rows, key=lambda row: row.median_ms or 0.0), min(rows, key=_millions)


def _disagreement(measured: BenchSet, fastest: Row, fewest: Row, where: str) -> list[str]:
    if fastest is fewest or is_tie(measured, fastest.cell.id, fewest.cell.id):
        return []
    return [
        f"{where} on {THREADS} thread: this host's times prefer `{fastest.cell.variant_id}`, and "
        f"ARM instructions `{fewest.cell.variant_id}` ({_millions(fewest):.1f} M against "
        f"{_millions(fastest):.1f} M): do not take this host's order for a phone's."
    ]


def _millions(row: Row) -> float:
    counted = row.instructions
    return (counted.instructions_per_call or 0.0) / 1e6 if counted else 0.0
