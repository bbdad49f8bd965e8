"""What to ship: the settings that a sweep recommends, as records and in words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from exporters.manifest import RecommendedSetting
from harness.ranking import Row, is_tie, rank, reported_medians
from harness.schedule import EAGER
from harness.stats import Interval
from harness.types import BenchSet, Recommendation

# A tie on a noisy host may hide a large difference: only rows this close are offered in the fastest one's place.
_CLOSE = 1.05


def recommend(measured: BenchSet, rows: Sequence[Row] | None = None) -> str:
    """Say in words which variant of each bundle to ship on this kind of CPU, and what that gains."""
    ranked = list(rows) if rows is not None else rank(measured)
    if not any(row.median_ms is not None and row.cell.format != EAGER for row in ranked):
        return "Nothing was measured, so nothing can be recommended."
    cores = measured.host.physical_cores
    sentences = [f"For a CPU like this one ({measured.host.cpu}, {cores} core{'s' if cores != 1 else ''}):"]
    for bundle in measured.bundles:
        sentences.append(f"- {_sentence(measured, bundle.name, eligible(ranked, bundle.name))}")
    return "\n".join(sentences)


def eligible(ranked: Sequence[Row], bundle: str) -> list[Row]:
    """Return a bundle's rows that may be recommended, from fast to slow: tuned, reported, true to the golden pack."""
    return [
        row
        for row in ranked
        if row.cell.bundle == bundle
        and row.cell.format != EAGER
        and row.is_tuned
        and not row.is_tuning_only
        and not any("golden pack" in warning for warning in row.warnings)
    ]


def choose(measured: BenchSet, rows: Sequence[Row]) -> tuple[Row, list[Row]]:
    """Return the row to ship, of eligible ones from fast to slow, and the rows that nobody can tell apart from it."""
    best = rows[0]
    ties = [
        row
        for row in rows[1:]
        if (row.median_ms or 0.0) <= _CLOSE * (best.median_ms or 0.0) and is_tie(measured, row.cell.id, best.cell.id)
    ]
    # Of variants that nobody can tell apart in time, the smallest file is the better one.
    chosen = min([best, *ties], key=lambda row: row.cell.file_bytes or 0)
    return chosen, [row for row in [best, *ties] if row is not chosen]


def recommended_settings(measured: BenchSet, rows: Sequence[Row]) -> dict[str, RecommendedSetting]:
    """Return bundle name → the setting that :func:`recommend` puts into words; a sweep cut short gives none."""
    made = {}
    for bundle in measured.bundles if measured.complete else ():
        if found := eligible(rows, bundle.name):
            chosen, _ = choose(measured, found)
            spec = chosen.cell.spec
            made[bundle.name] = RecommendedSetting(
                variant_id=spec.variant_id,
                runner=spec.runner,
                engine=spec.engine,
                threads=spec.threads,
                median_ms=float(chosen.median_ms or 0.0),
                noisy=chosen.noisy,
                cpu=measured.host.cpu,
                measured_utc=measured.created_utc,
            )
    return made


def _sentence(measured: BenchSet, bundle: str, rows: Sequence[Row]) -> str:
    if not rows:
        return f"{bundle}: the sweep has no reported figures yet; let it run to its end."
    chosen, ties = choose(measured, rows)
    spec = chosen.cell.spec
    threads = f"{spec.threads} thread{'s' if spec.threads != 1 else ''}"
    engine = f" ({spec.engine})" if spec.engine else ""
    text = f"{bundle}: `{spec.variant_id}`{engine} on {spec.runner}, {threads}, {chosen.median_ms:.3g} ms"
    text += f" ({chosen.fps:.0f} images a second)" if chosen.fps else ""
    gain = chosen.speedup_tuned
    if gain is not None:
        text += f"; it is {_times(gain)} the eager baseline at its best thread count"
    if ties:
        others = ", ".join(f"`{row.cell.spec.variant_id}`" for row in ties)
        text += f"; a tie with {others}, and the smaller file"
    if chosen.noisy:
        text += "; NOISY, so measure again on a quiet host before relying on it"
    return text + "."


def _times(gain: Interval) -> str:
    if gain.low is None or gain.high is None:
        return f"about {gain.value:.2g}× (one pair only)"
    if gain.is_tie:
        return f"a tie with ({gain.value:.2f}×, interval {gain.low:.2f}-{gain.high:.2f})"
    return f"{gain.value:.3g}× as fast as (interval {gain.low:.3g}-{gain.high:.3g})"


def recommendations(measured: BenchSet, leaders: Sequence[str]) -> tuple[Recommendation, ...]:
    """Return the leaders' settings with figures from rounds that did not choose them."""
    cells = {cell.id: cell for cell in measured.cells}
    tune_rounds = sorted({run.round for run in measured.runs if run.phase == "tune"})
    made = []
    for name in leaders:
        medians = reported_medians(measured, name)
        if medians and not medians.is_tuning_only:
            made.append(
                Recommendation(
                    bundle=cells[name].bundle or "-",
                    cell_id=name,
                    threads=cells[name].spec.threads,
                    median_ms=float(np.median(list(medians.by_round.values()))),
                    chosen_on_rounds=tuple(tune_rounds),
                    reported_on_rounds=tuple(sorted(medians.by_round)),
                )
            )
    return tuple(made)
