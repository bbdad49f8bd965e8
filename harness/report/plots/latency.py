"""Times of one sweep: how they spread, what threads and engines do to them, how they settle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.bench.ranking import Row, all_medians
from harness.bench.rounds import EAGER, setting
from harness.records import BenchSet, Timing
from harness.report.blocks import Picture
from harness.report.plots.axes import Curve, Line, curves, height_of, ranges
from harness.report.plots.svg import SERIES, label
from harness.report.table import Table
from udacisense.base.display import milliseconds, percent
from udacisense.measure.stats import ratio

_MOST_LINES = 6
_FEWEST_FOR_DRIFT = 20  # samples
_STRETCHES = 20
_REPORTED = ("report", "final")
_POINTS = 101  # of an empirical distribution: its percentiles


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep's rows as the pictures of one bundle need them."""

    measured: BenchSet
    bundle: str
    rows: tuple[Row, ...]  # of this bundle, timed, from fast to slow

    @property
    def tuned(self) -> list[Row]:
        """Each variant at its chosen thread count."""
        return [row for row in self.rows if row.is_tuned]

    @property
    def leaders(self) -> list[Row]:
        """The fastest of each format and runner, then the model before export."""
        best: dict[tuple[str, str], Row] = {}
        for row in self.tuned:
            best.setdefault((row.cell.format, row.cell.runner), row)
        eager = [row for row in best.values() if row.cell.format == EAGER]
        return [row for row in best.values() if row.cell.format != EAGER][: _MOST_LINES - 1] + eager[:1]

    def name(self, row: Row) -> str:
        """A cell's name within its bundle."""
        return row.cell.id.removeprefix(f"{self.bundle}/")

    def against_best(self, row: Row) -> str | None:
        """Return "tie" where nobody can tell a row from the best, "unsettled" where too little was measured."""
        best = next((other for other in self.rows if not other.is_tuning_only), self.rows[0])
        if row is best:
            return None
        medians = [all_medians(self.measured, one.cell.id) for one in (row, best)]
        gap = ratio(*medians, seed=self.measured.seed)
        if gap is None or gap.low is None:
            return "unsettled"
        return "tie" if gap.is_tie else None


def timings_of(measured: BenchSet, row: Row) -> list[Timing]:
    """Return the timings behind a row's figures, in the order of the rounds."""
    phases = ("tune",) if row.is_tuning_only else _REPORTED
    return [
        run.timing
        for run in measured.runs
        if run.cell_id == row.cell.id and run.phase in phases and run.timing is not None
    ]


def samples_of(measured: BenchSet, row: Row) -> NDArray[np.float64]:
    """Return the raw samples (ms a call) behind a row's figures."""
    kept = [timing.samples_ms for timing in timings_of(measured, row)]
    return np.concatenate([np.asarray(samples, dtype=np.float64) for samples in kept]) if kept else np.empty(0)


def spread_picture(sweep: Sweep) -> Picture | None:
    """Return every variant's distribution at its chosen thread count."""
    lines, rows = [], []
    for row in sweep.tuned:
        values = samples_of(sweep.measured, row)
        if not len(values):
            continue
        p5, p25, p50, p75, p95 = (float(q) for q in np.percentile(values, [5, 25, 50, 75, 95]))
        mark = sweep.against_best(row)
        marks = [*([mark] if mark else []), *(["NOISY"] if row.noisy else [])]
        lines.append(
            Line(
                name=sweep.name(row),
                low=p5,
                high=p95,
                value=p50,
                inner=(p25, p75),
                colour=SERIES[3] if row.cell.format == EAGER else SERIES[0],
                is_hollow=mark is not None,
                text=", ".join([milliseconds(p50) or "", *marks]),
            )
        )
        shown = (milliseconds(q) for q in (p5, p25, p50, p75, p95))
        rows.append((sweep.name(row), *shown, str(len(values)), ", ".join(marks) or None))
    if not lines:
        return None

    return Picture(
        title="How the times spread",
        paint=ranges(lines, x_label="time of one call (ms)"),
        height_in=height_of(len(lines)),
        alt=f"Distribution of call times of {len(lines)} variants of {sweep.bundle}; the fastest is "
        f"{lines[0].name} with {lines[0].text}.",
        says="Dot: median; thick: the middle half; thin: 5th to 95th percentile of the raw samples. Hollow: "
        "a tie with the best, or unsettled, which is one pair of processes alone. Purple: the model before export.",
        data=Table(
            title="Spread", columns=("cell", "p5", "p25", "median", "p75", "p95", "samples", "marks"), rows=tuple(rows)
        ),
    )


def ecdf_picture(sweep: Sweep) -> Picture | None:
    """Return the empirical distribution functions of the leaders."""
    timed = [(row, samples_of(sweep.measured, row)) for row in sweep.leaders]
    timed = [(row, values) for row, values in timed if len(values) > 1]
    if not timed:
        return None
    shares = np.linspace(0.0, 1.0, _POINTS)
    drawn = [Curve(name=sweep.name(row), x=list(np.quantile(v, shares)), y=list(100 * shares)) for row, v in timed]
    quantiles = (0.05, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
    rows = tuple(
        (sweep.name(row), *(milliseconds(float(q)) for q in np.quantile(values, quantiles))) for row, values in timed
    )
    return Picture(
        title="Share of calls within a time",
        paint=curves(drawn, x_label="time of one call (ms)", y_label="calls at most that long (%)", fit="x"),
        height_in=3.0 + 0.2 * len(drawn),
        alt=f"Empirical distribution functions of {len(drawn)} cells of {sweep.bundle}.",
        says="The steeper a curve, the steadier the times. The fastest cell of each format and runner, and eager.",
        data=Table(title="Quantiles", columns=("cell", *(f"p{100 * q:g}" for q in quantiles)), rows=rows),
    )


def threads_picture(sweep: Sweep) -> Picture | None:
    """Return how the leaders' times change with the thread count; None where one count alone was measured."""
    settings: dict[tuple[str, ...], list[Row]] = {}
    for row in sweep.rows:
        settings.setdefault(setting(row.cell), []).append(row)
    wanted = [setting(row.cell) for row in sweep.leaders]
    series = [sorted(settings[key], key=lambda row: row.cell.threads) for key in wanted if len(settings[key]) > 1]
    if not series:
        return None
    counts = sorted({row.cell.threads for rows in series for row in rows})
    drawn = [
        Curve(
            name=_setting_name(rows[0]),
            x=[row.cell.threads for row in rows],
            y=[row.median_ms or 0.0 for row in rows],
        )
        for rows in series
    ]
    table_rows = tuple(
        (
            _setting_name(row),
            str(row.cell.threads),
            milliseconds(row.median_ms),
            "chosen" if row.is_tuned else None,
        )
        for rows in series
        for row in rows
    )
    return Picture(
        title="What more threads bring",
        paint=curves(
            drawn,
            x_label="threads",
            y_label="median (ms)",
            fit="y",
            ticks={count: str(count) for count in counts},
            is_marked=True,
        ),
        height_in=2.9 + 0.2 * len(series),
        alt=f"Median time of {len(series)} variants of {sweep.bundle} at {', '.join(map(str, counts))} threads.",
        says="Falling lines gain from threads; flat ones leave the cores to the app.",
        data=Table(title="Threads", columns=("variant", "threads", "median", "mark"), rows=table_rows),
    )


def engines_picture(sweep: Sweep) -> Picture | None:
    """Return the same precision through every runtime and engine that ran it."""
    best: dict[tuple[str, str], Row] = {}
    for row in sweep.tuned:
        spec = row.cell
        runtime = f"{spec.runner}{f' · {spec.engine}' if spec.engine else ''}"
        best.setdefault((row.cell.precision, runtime), row)
    if len({runtime for _, runtime in best}) < 2:
        return None
    ordered = sorted(best.items(), key=lambda entry: (entry[0][0], entry[1].median_ms or 0.0))
    precisions = list(dict.fromkeys(precision for (precision, _), _ in ordered))
    lines = [
        Line(
            name=f"{precision}: {runtime}",
            low=row.floor_ms if row.floor_ms is not None else row.median_ms or 0.0,
            high=row.median_ms or 0.0,
            value=row.median_ms or 0.0,
            colour=SERIES[precisions.index(precision) % len(SERIES)],
            text=milliseconds(row.median_ms) or "",
        )
        for (precision, runtime), row in ordered
    ]

    rows = tuple(
        (precision, runtime, sweep.name(row), milliseconds(row.median_ms), milliseconds(row.floor_ms))
        for (precision, runtime), row in ordered
    )
    return Picture(
        title="Engines compared",
        paint=ranges(lines, x_label="median (ms); the line begins at the runtime's overhead floor"),
        height_in=height_of(len(lines)),
        alt=f"Median times of {sweep.bundle} through {len(lines)} runtimes and engines, by precision.",
        says="The fastest cell of each precision, runtime and engine. The floor is an identity model through the same "
        "runtime: what calling it costs, whatever the network.",
        data=Table(title="Engines", columns=("precision", "runtime", "cell", "median", "floor"), rows=rows),
    )


def settling_picture(sweep: Sweep) -> Picture | None:
    """Return first call, tenth call and steady state of the leaders."""
    rows = [row for row in sweep.leaders if row.first_ms is not None and row.median_ms is not None]
    if not rows:
        return None
    steps = ("first call", "tenth call", "steady")
    drawn = []
    for row in rows:
        values = enumerate((row.first_ms, row.tenth_ms, row.median_ms))
        x, y = zip(*((i, value) for i, value in values if value is not None), strict=True)
        drawn.append(Curve(name=sweep.name(row), x=x, y=y))
    table_rows = tuple(
        (
            sweep.name(row),
            milliseconds(row.load_ms),
            milliseconds(row.first_ms),
            milliseconds(row.tenth_ms),
            milliseconds(row.median_ms),
        )
        for row in rows
    )
    return Picture(
        title="From the first call to the steady state",
        paint=curves(
            drawn, x_label="", y_label="time of one call (ms)", fit="y", ticks=dict(enumerate(steps)), is_marked=True
        ),
        height_in=2.9 + 0.2 * len(rows),
        alt=f"Time of the first call, the tenth and the steady state of {len(rows)} cells of {sweep.bundle}.",
        says="An app that classifies one photo pays the load and the first call, a camera stream the steady state.",
        data=Table(title="Settling", columns=("cell", "load", *steps), rows=table_rows),
    )


def drift_picture(sweep: Sweep) -> Picture | None:
    """Return the samples of each leader's last process in the order of time."""
    found = [(row, timing) for row in sweep.leaders for timing in timings_of(sweep.measured, row)[-1:]]
    found = [(row, timing) for row, timing in found if len(timing.samples_ms) >= _FEWEST_FOR_DRIFT]
    if not found:
        return None
    shares = list(np.linspace(0, 100, _STRETCHES))
    drawn = [Curve(name=sweep.name(row), x=shares, y=_smoothed(timing.samples_ms)) for row, timing in found]
    return Picture(
        title="Drift within a run",
        paint=curves(drawn, x_label="share of the run (%)", y_label="time, % of the median"),
        height_in=2.9 + 0.2 * len(drawn),
        alt=f"Times in the order they were taken, of {len(drawn)} cells of {sweep.bundle}, to their median.",
        says="Medians of twenty stretches of each cell's last process. A rise at the end is heat or a busy neighbour.",
        data=Table(
            title="Drift",
            columns=("cell", "last tenth against the first"),
            rows=tuple((sweep.name(row), f"{100 * timing.drift_fraction:+.1f} %") for row, timing in found),
        ),
    )


def _smoothed(samples: Sequence[float]) -> list[float]:
    """Return the median of each stretch, in percent of the median of all."""
    stretches = np.array_split(np.asarray(samples, dtype=np.float64), _STRETCHES)
    return [100 * float(np.median(stretch)) / float(np.median(samples)) for stretch in stretches]


def _setting_name(row: Row) -> str:
    spec = row.cell
    batch = f" b{spec.batch_size}" if spec.batch_size != 1 else ""
    return label(f"{spec.variant_id}{f'@{spec.engine}' if spec.engine else ''} [{spec.runner}]{batch}")


def limits_table(sweep: Sweep) -> Table:
    """Return what each time is made of and held against: floor, roofline, spread, instructions."""
    rows: list[tuple[str | None, ...]] = []
    for row in sweep.tuned:
        count = None if row.instructions is None else row.instructions.instructions_per_call
        rows.append(
            (
                sweep.name(row),
                milliseconds(row.median_ms),
                milliseconds(row.floor_ms),
                percent(row.limit_fraction),
                percent(row.spread_fraction),
                None if count is None else f"{count / 1e6:.2f} M",
                sweep.against_best(row),
            )
        )
    of_times = ("cell", "median", "overhead floor", "of the roofline", "between processes")
    columns = (*of_times, "ARM instructions", "against the best")
    empty = [i for i in range(len(columns) - 1) if all(row[i] is None for row in rows)]
    return Table(
        title="What stands behind the times",
        columns=tuple(name for i, name in enumerate(columns) if i not in empty),
        rows=tuple(tuple(cell for i, cell in enumerate(row) if i not in empty) for row in rows),
        notes=(f"Without a figure here: {', '.join(columns[i] for i in empty)}.",) if empty else (),
    )
