"""What to ship: the settings that a sweep recommends, as records and in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.bench.cascade import by_member
from harness.bench.ranking import Row, is_tie, rank, reported_medians
from harness.bench.rounds import EAGER
from harness.records import BenchSet, Measurement, MeasurementSet, Recommendation
from harness.runners.table import RUNNERS, stand_in
from udacisense.base.records import Outcome
from udacisense.measure.stats import Interval

# A tie on a noisy host may hide a large difference: only rows this close are offered in the fastest one's place.
_CLOSE = 1.05
# A file whose top-1 lost more than this against the float32 weights, on the same images, is not recommended.
_MOST_LOST_FRACTION = 0.05

_Key = tuple[str, str]  # bundle name, variant id


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """What verification says of a sweep's variants."""

    passed: frozenset[_Key]  # on one runner at least
    failed: frozenset[_Key]  # on one runner at least
    lost: Mapping[_Key, tuple[float, int]]  # too much top-1: the fraction lost, and on how many images

    def against(self, bundle: str, variant_id: str) -> str | None:
        """Return what speaks against a file, or None."""
        key = (bundle, variant_id)
        if key in self.failed:
            return "failed verification"
        if key in self.lost:
            fraction, images = self.lost[key]
            return f"lost {100 * fraction:.1f} points of top-1 on {images} image{'s' if images != 1 else ''}"
        return None


def verdicts(measured: BenchSet, verifications: Iterable[MeasurementSet]) -> Verdicts:
    """Return what the verification records of a sweep's own bundles say; records of others say nothing here.

    Accuracy is that of the first cell of a variant that passed on a runner that is fed every image.
    """
    passed: set[_Key] = set()
    failed: set[_Key] = set()
    lost: dict[_Key, tuple[float, int]] = {}
    for verification in by_member(measured, verifications):
        names = [bundle.name for bundle in measured.bundles if bundle.sha256 == verification.bundle_sha256]
        for name in names:
            for m in verification.measurements:
                key = (name, m.spec.variant_id)
                if m.outcome is Outcome.FAILED:
                    failed.add(key)
                elif m.outcome is Outcome.PASSED:
                    passed.add(key)
                    if (fraction := _lost_fraction(m)) is not None and m.comparison is not None:
                        lost.setdefault(key, (fraction, m.comparison.n_inputs))
    too_much = {key: value for key, value in lost.items() if value[0] > _MOST_LOST_FRACTION}
    return Verdicts(passed=frozenset(passed), failed=frozenset(failed), lost=too_much)


def _lost_fraction(m: Measurement) -> float | None:
    c = m.comparison
    if c is None or not is_fed_every_image(m):
        return None
    if c.top1_fraction is None or c.reference_top1_fraction is None:
        return None
    return round(c.reference_top1_fraction - c.top1_fraction, 9)  # 1.0 - 0.95 is five points, and not more


def recommend(
    measured: BenchSet, rows: Sequence[Row] | None = None, verifications: Iterable[MeasurementSet] | None = None
) -> str:
    """Say in words which variant of each bundle to ship on this kind of CPU, and what that gains.

    Args:
        measured: the sweep.
        rows: its ranked rows; None: they are made here.
        verifications: records of ``verify``: what failed there is not recommended, and what no record names is called
            not verified. None: verification is left out of account.
    """
    ranked = list(rows) if rows is not None else rank(measured)
    if not any(row.median_ms is not None and row.cell.format != EAGER for row in ranked):
        names = ", ".join(bundle.name for bundle in measured.bundles)
        return f"Nothing of {names} was measured, so nothing can be recommended."
    known = None if verifications is None else verdicts(measured, verifications)
    cores = measured.host.physical_cores
    sentences = [f"For a CPU like this one ({measured.host.cpu}, {cores} core{'s' if cores != 1 else ''}):"]
    for bundle in measured.bundles:
        sentences.append(f"- {_sentence(measured, bundle.name, ranked, known)}")
    return "\n".join(sentences)


def eligible(ranked: Sequence[Row], bundle: str, known: Verdicts | None = None) -> list[Row]:
    """Return a bundle's rows that may be recommended, from fast to slow.

    They are tuned and reported, ran in every round, are true to the golden pack, were timed on no stand-in for a phone,
    and nothing that is ``known`` of their verification speaks against them.
    """
    return [row for row in _reported(ranked, bundle) if objection(row, known) is None]


def _reported(ranked: Sequence[Row], bundle: str) -> list[Row]:
    return [
        row
        for row in ranked
        if row.cell.bundle == bundle and row.cell.format != EAGER and row.is_tuned and not row.is_tuning_only
    ]


def objection(row: Row, known: Verdicts | None) -> str | None:
    """Return why a row may not be recommended, or None where nothing speaks against it."""
    if row.outcome is not Outcome.PASSED:
        return f"{row.outcome}{' in a round' if row.median_ms is not None else ''}: {(row.reason or '-').rstrip('.')}"
    if row.wrong_answers:
        return "its answers are not the golden pack's"
    if (whose := stand_in(row.cell.runner)) is not None:
        return f"timed on {whose}"
    return None if known is None else known.against(row.cell.bundle or "-", row.cell.variant_id)


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


def recommendations(
    measured: BenchSet, ranked: Sequence[Row], verifications: Iterable[MeasurementSet] | None = None
) -> tuple[Recommendation, ...]:
    """Return the setting of each bundle that :func:`recommend` puts into words; a sweep cut short gives none."""
    known = None if verifications is None else verdicts(measured, verifications)
    tune_rounds = sorted({run.round for run in measured.runs if run.phase == "tune"})
    made = []
    for bundle in measured.bundles if measured.complete else ():
        if found := eligible(ranked, bundle.name, known):
            chosen, _ = choose(measured, found)
            medians = reported_medians(measured, chosen.cell.id)
            made.append(
                Recommendation(
                    bundle=bundle.name,
                    cell_id=chosen.cell.id,
                    threads=chosen.cell.threads,
                    median_ms=chosen.median_ms or 0.0,
                    chosen_on_rounds=tuple(tune_rounds),
                    reported_on_rounds=tuple(sorted(medians.by_round)),
                )
            )
    return tuple(made)


def cautions(measured: BenchSet, ranked: Sequence[Row]) -> tuple[str, ...]:
    """Return what could not be measured in a sweep, and what a reader of its figures should know, one line each."""
    runners = dict.fromkeys(row.cell.runner for row in ranked if row.median_ms is not None)
    borrowed = (
        f"times on {runner} are those of {whose}, not of a phone: they are shown and never recommended"
        for runner in runners
        if (whose := stand_in(runner)) is not None
    )
    return (*measured.notes, *borrowed)


def _sentence(measured: BenchSet, bundle: str, ranked: Sequence[Row], known: Verdicts | None) -> str:
    rows = eligible(ranked, bundle, known)
    if not rows:
        files = [row for row in ranked if row.cell.bundle == bundle and row.cell.format != EAGER]
        failed = [row for row in files if row.outcome is Outcome.FAILED]
        why = _objections([*_reported(ranked, bundle), *failed], known)
        if why and measured.complete:
            return f"{bundle}: no file can be recommended: {why}."
        return f"{bundle}: the sweep has no reported figures yet; let it run to its end."
    chosen, ties = choose(measured, rows)
    cell = chosen.cell
    threads = f"{cell.threads} thread{'s' if cell.threads != 1 else ''}"
    engine = f" ({cell.engine})" if cell.engine else ""
    text = f"{bundle}: `{cell.variant_id}`{engine} on {cell.runner}, {threads}, {chosen.median_ms:.3g} ms"
    text += f" ({chosen.fps:.0f} images a second)" if chosen.fps else ""
    gain = chosen.speedup_tuned
    if gain is not None:
        text += f"; it is {_times(gain)} the eager baseline at its best thread count"
    if ties:
        others = ", ".join(f"`{row.cell.variant_id}`" for row in ties)
        text += f"; a tie with {others}, and the smaller file"
    if chosen.noisy:
        text += "; NOISY, so measure again on a quiet host before relying on it"
    if known is not None and (bundle, cell.variant_id) not in known.passed:
        text += "; not verified, so run `udacisense verify` before shipping it"
    faster = [row for row in _reported(ranked, bundle) if (row.median_ms or 0.0) < (chosen.median_ms or 0.0)]
    if why := _objections(faster, known):
        text += f"; faster, but not recommended: {why}"
    return text + "."


def _objections(rows: Sequence[Row], known: Verdicts | None) -> str:
    """Return why rows are not recommended, each reason behind the variants that it is said of."""
    names: dict[str, list[str]] = {}
    for row in rows:
        if (why := objection(row, known)) is not None:
            names.setdefault(why, []).append(f"`{row.cell.variant_id}`")
    return "; ".join(f"{', '.join(dict.fromkeys(group))} ({why})" for why, group in names.items())


def _times(gain: Interval) -> str:
    if gain.low is None or gain.high is None:
        return f"about {gain.value:.2g}× (one pair only)"
    if gain.is_tie:
        return f"a tie with ({gain.value:.2f}×, interval {gain.low:.2f}-{gain.high:.2f})"
    return f"{gain.value:.3g}× as fast as (interval {gain.low:.3g}-{gain.high:.3g})"


def verified_accuracy(measured: BenchSet, verifications: Iterable[MeasurementSet]) -> dict[tuple[str, str], float]:
    """Return (bundle name, variant id) → top-1 as verified, for the bundles of a sweep.

    A record of another bundle, or of another export of the same one, says nothing here and is left out. Of several
    cells of a variant the first that passed counts: the engine that the file was packed for.
    """
    names = {bundle.sha256: bundle.name for bundle in measured.bundles}
    found: dict[tuple[str, str], float] = {}
    for verification in by_member(measured, verifications):
        name = names.get(verification.bundle_sha256)
        for m in verification.measurements if name is not None else ():
            top1 = m.comparison.top1_fraction if m.comparison is not None and is_fed_every_image(m) else None
            if m.outcome is Outcome.PASSED and top1 is not None:
                found.setdefault((name or "", m.spec.variant_id), top1)
    return found


def is_fed_every_image(m: Measurement) -> bool:
    """Tell whether a verification's cell saw all images: an emulated runner and a phone's app saw the golden pack."""
    row = RUNNERS.get(m.spec.runner)
    return row is not None and not row.is_emulated
