"""Times of one sweep: how they spread, what threads and engines do to them, how they settle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from harness.bench.ranking import Row, all_medians
from harness.bench.rounds import EAGER, setting
from harness.records import BenchSet, Timing
from harness.report.html.blocks import Picture
from harness.report.html.plots.axes import Line, height_of, legend_below, ranges, scale
from harness.report.html.plots.svg import DASHES, INK, MARKERS, SERIES, draw, label
from harness.report.table import Table
from udacisense.base.display import milliseconds, percent
from udacisense.measure.stats import ratio

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_LINES = 6
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
            best.setdefault((row.cell.format, row.cell.spec.runner), row)
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
        run.measurement.timing
        for run in measured.runs
        if run.cell_id == row.cell.id and run.phase in phases and run.measurement.timing is not None
    ]


def samples_of(measured: BenchSet, row: Row) -> NDArray[np.float64]:
    """Return the raw samples (ms a call) behind a row's figures."""
    kept = [timing.samples_ms for timing in timings_of(measured, row)]
    return np.concatenate([np.asarray(samples, dtype=np.float64) for samples in kept]) if kept else np.empty(0)


def spread_picture(sweep: Sweep, *, name: str) -> Picture | None:
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

    def paint(figure: Figure) -> None:
        ranges(figure.subplots(), lines, x_label="time of one call (ms)")

    return Picture(
        title="How the times spread",
        svg=draw(
            paint,
            height_in=height_of(len(lines)),
            name=name,
            alt=f"Distribution of call times of {len(lines)} variants of {sweep.bundle}; the fastest is "
            f"{lines[0].name} with {lines[0].text}.",
        ),
        says="Dot: median; thick: the middle half; thin: 5th to 95th percentile of the raw samples. Hollow: "
        "a tie with the best, or unsettled, which is one pair of processes alone. Purple: the model before export.",
        data=Table(
            title="Spread", columns=("cell", "p5", "p25", "median", "p75", "p95", "samples", "marks"), rows=tuple(rows)
        ),
    )


def ecdf_picture(sweep: Sweep, *, name: str) -> Picture | None:
    """Return the empirical distribution functions of the leaders."""
    curves = [(row, samples_of(sweep.measured, row)) for row in sweep.leaders]
    curves = [(row, values) for row, values in curves if len(values) > 1]
    if not curves:
        return None
    shares = np.linspace(0.0, 1.0, _POINTS)

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for i, (row, values) in enumerate(curves):
            style = {"color": SERIES[i], "linestyle": DASHES[i], "label": label(sweep.name(row))}
            axes.plot(np.quantile(values, shares), 100 * shares, **style)  # type: ignore[arg-type]
        scale(axes, "x", [float(v) for _, values in curves for v in (values.min(), values.max())])
        axes.set_xlabel("time of one call (ms)")
        axes.set_ylabel("calls at most that long (%)")
        legend_below(axes)

    quantiles = (0.05, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
    rows = tuple(
        (sweep.name(row), *(milliseconds(float(q)) for q in np.quantile(values, quantiles))) for row, values in curves
    )
    return Picture(
        title="Share of calls within a time",
        svg=draw(
            paint,
            height_in=3.0 + 0.2 * len(curves),
            name=name,
            alt=f"Empirical distribution functions of {len(curves)} cells of {sweep.bundle}.",
        ),
        says="The steeper a curve, the steadier the times. The fastest cell of each format and runner, and eager.",
        data=Table(title="Quantiles", columns=("cell", *(f"p{100 * q:g}" for q in quantiles)), rows=rows),
    )


def threads_picture(sweep: Sweep, *, name: str) -> Picture | None:
    """Return how the leaders' times change with the thread count; None where one count alone was measured."""
    settings: dict[tuple[str, ...], list[Row]] = {}
    for row in sweep.rows:
        settings.setdefault(setting(row.cell), []).append(row)
    wanted = [setting(row.cell) for row in sweep.leaders]
    series = [sorted(settings[key], key=lambda row: row.cell.spec.threads) for key in wanted if len(settings[key]) > 1]
    if not series:
        return None
    counts = sorted({row.cell.spec.threads for rows in series for row in rows})

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for i, rows in enumerate(series):
            axes.plot(
                [row.cell.spec.threads for row in rows],
                [row.median_ms or 0.0 for row in rows],
                color=SERIES[i],
                linestyle=DASHES[i],
                marker=MARKERS[i],
                label=_setting_name(rows[0]),
            )
        scale(axes, "y", [row.median_ms or 0.0 for rows in series for row in rows])
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.set_xlabel("threads")
        axes.set_ylabel("median (ms)")
        legend_below(axes)

    table_rows = tuple(
        (
            _setting_name(row),
            str(row.cell.spec.threads),
            milliseconds(row.median_ms),
            "chosen" if row.is_tuned else None,
        )
        for rows in series
        for row in rows
    )
    return Picture(
        title="What more threads bring",
        svg=draw(
            paint,
            height_in=2.9 + 0.2 * len(series),
            name=name,
            alt=f"Median time of {len(series)} variants of {sweep.bundle} at {', '.join(map(str, counts))} threads.",
        ),
        says="Falling lines gain from threads; flat ones leave the cores to the app.",
        data=Table(title="Threads", columns=("variant", "threads", "median", "mark"), rows=table_rows),
    )


def engines_picture(sweep: Sweep, *, name: str) -> Picture | None:
    """Return the same precision through every runtime and engine that ran it."""
    best: dict[tuple[str, str], Row] = {}
    for row in sweep.tuned:
        spec = row.cell.spec
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

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        ranges(axes, lines, x_label="median (ms); the line begins at the runtime's overhead floor")

    rows = tuple(
        (precision, runtime, sweep.name(row), milliseconds(row.median_ms), milliseconds(row.floor_ms))
        for (precision, runtime), row in ordered
    )
    return Picture(
        title="Engines compared",
        svg=draw(
            paint,
            height_in=height_of(len(lines)),
            name=name,
            alt=f"Median times of {sweep.bundle} through {len(lines)} runtimes and engines, by precision.",
        ),
        says="The fastest cell of each precision, runtime and engine. The floor is an identity model through the same "
        "runtime: what calling it costs, whatever the network.",
        data=Table(title="Engines", columns=("precision", "runtime", "cell", "median", "floor"), rows=rows),
    )


def settling_picture(sweep: Sweep, *, name: str) -> Picture | None:
    """Return first call, tenth call and steady state of the leaders."""
    rows = [row for row in sweep.leaders if row.first_ms is not None and row.median_ms is not None]
    if not rows:
        return None
    steps = ("first call", "tenth call", "steady")

    def points(row: Row) -> list[tuple[int, float]]:
        values = enumerate((row.first_ms, row.tenth_ms, row.median_ms))
        return [(i, value) for i, value in values if value is not None]

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for i, row in enumerate(rows):
            x, y = zip(*points(row), strict=True)
            axes.plot(x, y, color=SERIES[i], linestyle=DASHES[i], marker=MARKERS[i], label=label(sweep.name(row)))
        scale(axes, "y", [value for row in rows for _, value in points(row)])
        axes.set_xticks(range(3), steps)
        axes.set_xlim(-0.2, 2.2)
        axes.set_ylabel("time of one call (ms)")
        legend_below(axes)

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
        svg=draw(
            paint,
            height_in=2.9 + 0.2 * len(rows),
            name=name,
            alt=f"Time of the first call, the tenth and the steady state of {len(rows)} cells of {sweep.bundle}.",
        ),
        says="An app that classifies one photo pays the load and the first call, a camera stream the steady state.",
        data=Table(title="Settling", columns=("cell", "load", *steps), rows=table_rows),
    )


def drift_picture(sweep: Sweep, *, name: str) -> Picture | None:
    """Return the samples in the order of time: of the sustained runs where there are some, else of each process."""
    curves: list[tuple[str, NDArray[np.float64], float]] = []
    sustained = [run for run in sweep.measured.runs if run.phase == "sustained"]
    for row in sweep.leaders:
        found = [
            r.measurement.timing for r in sustained if r.cell_id == row.cell.id and r.measurement.timing is not None
        ]
        for timing in found or timings_of(sweep.measured, row)[-1:]:
            if len(timing.samples_ms) >= _FEWEST_FOR_DRIFT:
                curves.append((sweep.name(row), _smoothed(timing.samples_ms), timing.drift_fraction))
    if not curves:
        return None

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.axhline(100, color=INK, linewidth=0.8)
        for i, (cell, values, _) in enumerate(curves[:_MOST_LINES]):
            style = {"color": SERIES[i], "linestyle": DASHES[i], "label": label(cell)}
            axes.plot(np.linspace(0, 100, len(values)), 100 * values / np.median(values), **style)  # type: ignore[arg-type]
        axes.set_xlabel("share of the run (%)")
        axes.set_ylabel("time, % of the median")
        legend_below(axes)

    kind = "sustained run" if sustained else "last process"
    return Picture(
        title="Drift within a run",
        svg=draw(
            paint,
            height_in=2.9 + 0.2 * min(len(curves), _MOST_LINES),
            name=name,
            alt=f"Times in the order they were taken, of {len(curves)} cells of {sweep.bundle}, to their median.",
        ),
        says=f"Medians of twenty stretches of each cell's {kind}. A rise towards the end is heat or a busy neighbour.",
        data=Table(
            title="Drift",
            columns=("cell", "last tenth against the first", "taken from"),
            rows=tuple((cell, f"{100 * drift:+.1f} %", kind) for cell, _, drift in curves),
        ),
    )


_FEWEST_FOR_DRIFT = 20


def _smoothed(samples: Sequence[float]) -> NDArray[np.float64]:
    stretches = np.array_split(np.asarray(samples, dtype=np.float64), 20)
    return np.asarray([float(np.median(stretch)) for stretch in stretches])


def _setting_name(row: Row) -> str:
    spec = row.cell.spec
    batch = f" b{spec.batch_size}" if spec.batch_size != 1 else ""
    return label(f"{spec.variant_id}{f'@{spec.engine}' if spec.engine else ''} [{spec.runner}]{batch}")


def limits_table(sweep: Sweep) -> Table:
    """Return what each time is made of and held against: floor, roofline, spread, drift, energy, instructions."""
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
                None if row.sustained_drift_fraction is None else f"{100 * row.sustained_drift_fraction:+.1f} %",
                None if row.energy_mj is None else f"{row.energy_mj:.3g} mJ",
                None if count is None else f"{count / 1e6:.2f} M",
                sweep.against_best(row),
            )
        )
    of_times = ("cell", "median", "overhead floor", "of the roofline", "between processes", "sustained drift", "energy")
    columns = (*of_times, "ARM instructions", "against the best")
    empty = [i for i in range(len(columns) - 1) if all(row[i] is None for row in rows)]
    return Table(
        title="What stands behind the times",
        columns=tuple(name for i, name in enumerate(columns) if i not in empty),
        rows=tuple(tuple(cell for i, cell in enumerate(row) if i not in empty) for row in rows),
        notes=(f"Without a figure here: {', '.join(columns[i] for i in empty)}.",) if empty else (),
    )
