"""Records as tables for people: the command line prints them, the report writes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from exporters.bundle.manifest import Manifest
from harness.bench.cascade import CascadeRow
from harness.bench.compare_runs import SetComparison
from harness.bench.ranking import Row
from harness.bench.rounds import EAGER, setting
from harness.records import MeasurementSet, VariantInstructions
from harness.report.table import Table, grouped
from udacisense.base.display import change, megabytes, milliseconds, percent
from udacisense.base.records import Outcome, StageRecord
from udacisense.measure.stats import Interval
from udacisense.pipeline.requirements import Requirement

_PLAIN = "ptl-fp32"  # what instruction counts are held against
_LIMITS = ("overhead floor", "of the roofline")
_STALL = 2.0  # times as slow as on fewer threads


def stages_table(
    baseline: StageRecord,
    stages: Sequence[StageRecord],
    *,
    time_ratios: Sequence[Interval] = (),
    title: str = "Stages",
) -> Table:
    """One row a stage, each with its change against the baseline.

    A model without stages shows no latency: one lone median says nothing beside other times. ``time_ratios`` are those
    of :class:`udacisense.pipeline.run.RunRecord`.
    """
    rows = []
    for i, record in enumerate((baseline, *stages)):
        ratio = time_ratios[i - 1].value if i and time_ratios else record.latency_ms / baseline.latency_ms
        rows.append(
            (
                record.stage,
                megabytes(record.file_bytes),
                change(record.file_bytes, baseline.file_bytes) if i else None,
                f"{record.parameters:,}",
                milliseconds(record.latency_ms) if stages else None,
                change(ratio, 1.0) if i else None,
                percent(record.top1_fraction),
                f"{100 * (record.top1_fraction - baseline.top1_fraction):+.1f}" if i else None,
                percent(record.told_top5),
            )
        )
    columns = ("stage", "size", "change", "parameters", "latency", "change", "top-1", "points", "top-5")
    notes = (time_note(time_ratios),) if stages else ()
    return Table(title=title, columns=columns, rows=tuple(rows), notes=notes)


def time_note(time_ratios: Sequence[Interval]) -> str:
    """Say how a run's latencies were taken, and what they may be held against."""
    together = "every row was timed by turns with the others"
    if not time_ratios:
        together = "the first row and the last were timed by turns, those between by themselves"
    return (
        f"Latency: one image, through PyTorch on one thread; {together}. Another run, and `bench`, timed in processes "
        "and at hours of their own: hold the rows of one table against each other alone."
    )


def requirements_table(requirements: Iterable[Requirement], *, title: str = "Requirements") -> Table:
    """One row a requirement: measured, limit, how sure that is, outcome."""
    rows = tuple(
        (
            row.requirement,
            f"{row.measured:.1f} {row.unit}",
            f"{row.bound} {row.limit:g} {row.unit}",
            _interval(row),
            str(Outcome.PASSED if row.passed else Outcome.FAILED),
        )
        for row in requirements
    )
    return Table(title=title, columns=("requirement", "measured", "limit", "interval", "outcome"), rows=rows)


def _interval(row: Requirement) -> str | None:
    if row.low is None or row.high is None:
        return None
    if row.low == row.high:
        return "exact"
    doubt = "; the limit lies within" if row.is_in_doubt else ""
    return f"{row.low:.1f} to {row.high:.1f} {row.unit} (95 %{doubt})"


def variants_table(manifest: Manifest, *, title: str = "Variants") -> Table:
    """One row a variant: size and int8 coverage; below, what is odd and what each precision gave up on purpose."""
    rows, variants = [], manifest.variants
    for variant in variants:
        cover = variant.coverage
        rows.append(
            (
                variant.id,
                megabytes(variant.file_bytes),
                None if cover is None else f"{cover.modules_int8} of {cover.modules_total}",
                None if cover is None else f"{100 * cover.parameters_int8_fraction:.0f} %",
                None if cover is None else f"{100 * cover.macs_int8_fraction:.0f} %",
                str(variant.outcome),
            )
        )
    notes = [(v.id, v.reason) for v in variants if v.reason]
    notes += [(v.id, v.precision_note) for v in variants if v.outcome is Outcome.PASSED and v.precision != "fp32"]
    columns = ("variant", "size", "int8 modules", "int8 of parameters", "int8 of MACs", "outcome")
    return Table(title=title, columns=columns, rows=tuple(rows), notes=(*manifest.notes, *grouped(notes)))


def verification_table(measured: MeasurementSet, *, title: str = "Verification") -> Table:
    """One row a cell that ran: numbers against the eager source, decisions against the float32 master."""
    rows, notes = [], []
    for m in measured.measurements:
        c = m.comparison
        cell = f"{m.spec.variant_id} on {m.spec.runner}{f'@{m.spec.engine}' if m.spec.engine else ''}"
        notes += [(cell, text) for text in (*([m.reason] if m.reason else []), *m.warnings)]
        if m.outcome is Outcome.SKIPPED:
            continue
        rows.append(
            (
                m.spec.variant_id,
                m.spec.runner,
                m.spec.engine,
                str(m.outcome),
                None if c is None or c.max_abs is None else f"{c.max_abs:.2e}",
                None if c is None or c.mean_abs is None else f"{c.mean_abs:.2e}",
                None if c is None else percent(c.top1_agreement_fraction),
                None if c is None else str(len(c.flips)),
                None if c is None else percent(c.top1_fraction),
                None if c is None else str(c.n_inputs),
            )
        )
    columns = ("variant", "runner", "engine", "outcome", "max |Δ|", "mean |Δ|", "agreement", "flips", "top-1", "images")
    return Table(title=title, columns=columns, rows=tuple(rows), notes=grouped(notes))


def certainty_table(measured: MeasurementSet, *, title: str = "Confidence") -> Table | None:
    """One row a cell: how sure it is beside the float32 master, and how right where it answers; None without any."""
    found = [(m.spec, m.comparison.certainty) for m in measured.measurements if m.comparison and m.comparison.certainty]
    if not found:
        return None
    rows = tuple(
        (
            spec.variant_id,
            spec.runner,
            spec.engine,
            f"{sure.mean_moved:.2g}",
            f"{sure.most_moved:.2g}",
            _beside(percent(sure.calibration_error), percent(sure.reference_calibration_error)),
            _beside(_three(sure.log_loss), _three(sure.reference_log_loss)),
            percent(sure.answered_fraction),
            _beside(percent(sure.answered_top1_fraction), percent(sure.reference_answered_top1_fraction)),
        )
        for spec, sure in found
    )
    fits = dict.fromkeys((s.temperature, s.threshold) for _, s in found if s.temperature is not None)
    temperatures, thresholds = (" or ".join(f"{value:.3g}" for value in of) for of in zip(*fits, strict=True))
    notes = (
        f"Probabilities at temperature {temperatures}; answered where the best two are at least {thresholds} apart"
        f"{', each model at its own' if len(fits) > 1 else ''}. In brackets: the float32 master. Moved: |p - its p| of "
        "the class that it answers, mean and most. ECE: expected calibration error. Log loss: of the true class.",
    )
    columns = ("variant", "runner", "engine", "moved", "most", "ECE", "log loss", "answered", "top-1 of the answered")
    return Table(title=title, columns=columns, rows=rows, notes=notes)


def beyond_table(measured: MeasurementSet) -> Table | None:
    """One row a cell that was fed more than the test images; None without any."""
    found = [(m.spec, m.comparison) for m in measured.measurements if m.comparison is not None]
    rows = []
    for spec, c in found:
        u, s = c.unknown, c.shifts
        if u is None and s is None:
            continue
        rows.append(
            (
                spec.variant_id,
                spec.runner,
                None if u is None else f"{_span(100 * u.taken_fraction, 100 * u.taken_low, 100 * u.taken_high)} %",
                None if u is None else percent(u.reference_taken_fraction),
                None if s is None else f"{s.clean_lost_points:.1f}",
                None if s is None else f"{s.lost_points:.1f}",
                None if s is None else _span(s.more_points, s.more_low, s.more_high),
            )
        )
    if not rows:
        return None
    counts = {(c.unknown and c.unknown.n_images, c.shifts and c.shifts.n_images) for _, c in found}
    unknown, shifted = max(counts, key=lambda pair: (pair[0] or 0, pair[1] or 0))
    notes = [f"Other things: {unknown} photos; taken for a class at the threshold of the manifest."] if unknown else []
    if shifted:
        notes.append(
            f"Shift: {shifted} test images under 7 shifts at 5 severities. Lost: points of top-1 to the float32 master "
            "on the same photos; more: lost under shift beyond what is lost on clean ones. In brackets: 95 %."
        )
    title = "Other things, and photos as phones take them"
    columns = ("variant", "runner", "other things taken", "by the master", "lost, clean", "lost, shifted", "more")
    return Table(title=title, columns=columns, rows=tuple(rows), notes=tuple(notes))


def _span(value: float, low: float, high: float) -> str:
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


def _beside(own: str | None, reference: str | None) -> str | None:
    return None if own is None else f"{own} ({reference})"


def _three(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"


def latency_table(ranked: Sequence[Row], *, title: str = "Latency", with_limits: bool = False) -> Table:
    """One row a measured or failed cell, from fast to slow; below, why others were skipped.

    ARM instructions, where they were counted, stand beside the times and order nothing. ``with_limits`` adds the
    columns of :func:`limits_table`.
    """
    counted = any(row.instructions for row in ranked)
    stalled = _stalled(ranked)
    rows = []
    for row in ranked:
        if row.outcome is Outcome.SKIPPED:
            continue
        flags = {
            "failed": row.outcome is Outcome.FAILED,
            "best threads": row.is_tuned,
            "NOISY": row.noisy,
            "STALLS on these threads": row.cell.id in stalled,
            "Pareto": row.is_pareto,
        }
        rows.append(
            (
                row.cell.id,
                milliseconds(row.median_ms),
                milliseconds(row.p90_ms),
                None if row.fps is None else f"{row.fps:.0f}",
                milliseconds(row.first_ms),
                milliseconds(row.load_ms),
                None if row.peak_rss_bytes is None else f"{row.peak_rss_bytes / 2**20:.0f} MiB",
                _speedup(row),
                percent(row.top1_fraction),
                *((milliseconds(row.floor_ms), percent(row.limit_fraction)) if with_limits else ()),
                *((_millions(row.instructions), _per_mac(row.instructions)) if counted else ()),
                ", ".join(name for name, is_set in flags.items() if is_set) or None,
            )
        )
    notes = [(row.cell.id, f"{row.outcome}: {row.reason}") for row in ranked if row.reason]
    columns = ["cell", "median", "p90", "FPS", "first", "load", "peak memory", "speed-up", "top-1"]
    columns += _LIMITS if with_limits else ()
    columns += [*(["ARM instructions", "per MAC"] if counted else []), "marks"]
    return Table(title=title, columns=tuple(columns), rows=tuple(rows), notes=grouped(notes))


def limits_table(ranked: Sequence[Row]) -> Table:
    """One row a cell whose overhead floor or share of the roofline is known."""
    rows = tuple(
        (row.cell.id, milliseconds(row.median_ms), milliseconds(row.floor_ms), percent(row.limit_fraction))
        for row in ranked
        if row.median_ms is not None and (row.floor_ms is not None or row.limit_fraction is not None)
    )
    title = "Limits (floor: an empty model in the same runtime)"
    return Table(title=title, columns=("cell", "median", *_LIMITS), rows=rows)


def comparison_table(made: SetComparison) -> Table:
    """One row a cell that both sweeps timed, then those that only one of them did."""
    rows: list[tuple[str | None, ...]] = []
    for changed in made.changes:
        span = changed.ratio
        is_known = span is not None and span.low is not None and span.high is not None
        rows.append(
            (
                changed.cell_id,
                milliseconds(changed.before_ms),
                milliseconds(changed.after_ms),
                f"{span.value:.3f} ({span.low:.3f}-{span.high:.3f})" if span is not None and is_known else None,
                changed.verdict,
            )
        )
    rows += [(name, None, None, None, "only before") for name in made.only_before]
    rows += [(name, None, None, None, "only after") for name in made.only_after]
    columns = ("cell", "before", "after", "ratio", "verdict")
    return Table(title="Change (after / before)", columns=columns, rows=tuple(rows))


def instructions_table(counted: Sequence[VariantInstructions]) -> Table:
    """One row a counted variant, in the bundles' order; changes are to the first bundle's plain float32 ``.ptl``."""
    first = next((c.instructions_per_call for c in counted if c.variant_id == _PLAIN), None)
    rows = [
        (
            c.bundle,
            c.variant_id,
            None if c.instructions_per_call is None else f"{c.instructions_per_call / 1e6:.2f} M",
            None if c.spread_fraction is None else f"{100 * c.spread_fraction:.2f} %",
            None if first is None or c.instructions_per_call is None else change(c.instructions_per_call, first),
            f"{c.macs / 1e6:.1f} M",
            _per_mac(c),
        )
        for c in counted
    ]
    notes = [(f"{c.bundle}/{c.variant_id}", f"{c.outcome}: {c.reason}") for c in counted if c.reason]
    notes += [(c.runtime, f"{c.library}, {c.cpu}, {c.threads} thread") for c in counted if c.library]
    columns = ("bundle", "variant", "ARM instructions", "spread", "change", "MACs", "per MAC")
    return Table(title="ARM instructions a call (no times)", columns=columns, rows=tuple(rows), notes=grouped(notes))


def _millions(counted: VariantInstructions | None) -> str | None:
    if counted is None or counted.instructions_per_call is None or counted.spread_fraction is None:
        return None
    return f"{counted.instructions_per_call / 1e6:.2f} M ± {100 * counted.spread_fraction:.2f} %"


def _per_mac(counted: VariantInstructions | None) -> str | None:
    if counted is None or counted.instructions_per_call is None or not counted.macs:
        return None
    return f"{counted.instructions_per_call / counted.macs:.2f}"


def _stalled(ranked: Sequence[Row]) -> set[str]:
    """Return the cells that take over twice as long as the same file on fewer threads: threads that fight."""
    found = set()
    times = {row.cell.id: row.median_ms for row in ranked if row.median_ms is not None}
    cells = [row.cell for row in ranked if row.cell.id in times]
    for cell in cells:
        fewer = [times[other.id] for other in cells if setting(other) == setting(cell) and other.threads < cell.threads]
        if fewer and times[cell.id] > _STALL * min(fewer):
            found.add(cell.id)
    return found


def _speedup(row: Row) -> str | None:
    gain = row.speedup
    if gain is not None and row.cell.format == EAGER and {gain.value, gain.low, gain.high} <= {1.0, None}:
        return "1"  # the reference itself: neither a figure nor a tie
    return _times(gain)


def _times(gain: Interval | None) -> str | None:
    if gain is None:
        return None
    if gain.low is None or gain.high is None:
        return f"{gain.value:.2f}× (one pair)"
    return f"{gain.value:.2f}× ({gain.low:.2f}-{gain.high:.2f}){' tie' if gain.is_tie else ''}"


def cascades_table(rows: Sequence[CascadeRow]) -> Table:
    """One row a way to run a cascade, from fast to slow by the mean."""
    made = tuple(
        (
            row.id,
            ", ".join(str(percent(share)) for share in row.reached_fractions[1:]),
            milliseconds(row.mean_ms),
            milliseconds(row.median_ms),
            milliseconds(row.worst_ms),
            _times(row.speedup),
            percent(row.top1_fraction),
            megabytes(row.file_bytes),
            None if row.instructions is None else f"{row.instructions / 1e6:.2f} M",
            "NOISY" if row.noisy else None,
        )
        for row in rows
    )
    notes = [
        "Mean over real images: each member's time, timed by turns, times the share of the images that reach it. "
        "Median: of the image in the middle. Worst: every member is asked. "
        "Speed-up: of the mean, with its 95 % interval."
    ]
    if any(not row.is_verified for row in rows):
        notes.append("Shares without a verification of the files on labelled images are those of the float32 models.")
    columns = ("cascade", "asked", "mean", "median", "worst", "speed-up", "top-1", "size", "ARM instructions", "marks")
    return Table(title="Cascades (time of an image)", columns=columns, rows=made, notes=tuple(notes))
