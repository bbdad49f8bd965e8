"""ARM instructions per call as a column of a benchmark: which variants are counted, and what their counts say.

A count is no time and is never ranked with times; where the two disagree about the variant to prefer, that is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from exporters.bundle import Bundle, open_bundle
from exporters.manifest import Variant
from harness.android import instructions as android
from harness.ranking import Row, is_tie
from harness.types import BenchedBundle, BenchSet, VariantInstructions
from udacisense.errors import InferenceError, LoadError
from udacisense.types import Outcome

FORMATS = ("ptl",)  # of which variants can be counted
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
    android.folder_that_counts()
    for benched in bundles:
        bundle = open_bundle(Path(benched.path))
        for variant in bundle.manifest.variants:
            if (benched.name, variant.id) in wanted:
                yield _count(benched, bundle, variant)


def countable(bundles: Iterable[BenchedBundle], variants: Sequence[str] | None = None) -> list[tuple[str, str]]:
    """Return (bundle name, variant id) of everything that can be counted; ``variants`` keeps these ids alone."""
    return [
        (benched.name, variant.id)
        for benched in bundles
        for variant in open_bundle(Path(benched.path)).manifest.variants
        if variant.format in FORMATS
        and variant.outcome is Outcome.PASSED
        and (variants is None or variant.id in variants)
    ]


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
        runtime=android.RUNTIME,
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
    """Say, by bundle and runner, where this host's times and ARM instructions prefer different variants."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in ranked:
        if row.instructions is not None and row.median_ms is not None:
            groups.setdefault((row.cell.bundle or "-", row.cell.spec.runner), []).append(row)
    told = []
    for (bundle, runner), rows in groups.items():
        fastest = min(rows, key=lambda row: row.median_ms or 0.0)
        fewest = min(rows, key=_millions)
        if fastest is fewest or is_tie(measured, fastest.cell.id, fewest.cell.id):
            continue
        told.append(
            f"{bundle} in {runner} on {THREADS} thread: this host's times prefer `{fastest.cell.spec.variant_id}`, and "
            f"ARM instructions `{fewest.cell.spec.variant_id}` ({_millions(fewest):.1f} M against "
            f"{_millions(fastest):.1f} M): do not take this host's order for a phone's."
        )
    return tuple(told)


def _millions(row: Row) -> float:
    counted = row.instructions
    return (counted.instructions_per_call or 0.0) / 1e6 if counted else 0.0
