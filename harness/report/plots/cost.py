"""What a time buys: the roofline, and the trade between size, latency and accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.bench.ranking import Row
from harness.records import BenchSet, Ceiling
from harness.report.blocks import Picture
from harness.report.plots.axes import legend_below, scale
from harness.report.plots.latency import Sweep
from harness.report.plots.svg import INK, MARKERS, PAPER, SERIES, label
from harness.report.table import Table
from udacisense.base.display import megabytes, milliseconds, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def roofline_picture(measured: BenchSet, sweeps: Sequence[Sweep]) -> Picture | None:
    """Return this host's ceilings and what eager and the fastest cell of each bundle reach under them."""
    works = {bundle.name: bundle for bundle in measured.bundles if bundle.moved_bytes > 0 and bundle.flops > 0}
    points = [
        (sweep.bundle, works[sweep.bundle], row)
        for sweep in sweeps
        if sweep.bundle in works
        for row in dict.fromkeys([*sweep.leaders[:1], *sweep.leaders[-1:]])
        if row.cell.batch_size == 1 and row.median_ms
    ]
    if not measured.ceilings or not points:
        return None
    bundles = list(dict.fromkeys(bundle for bundle, _, _ in points))

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        heights = [work.flops / (row.median_ms or 1.0) / 1e6 for _, work, row in points]
        heights += [height for ceiling in measured.ceilings for height in _roof(axes, ceiling)]
        for i, bundle in enumerate(bundles):
            mine = [(work, row) for named, work, row in points if named == bundle]
            x = [work.flops / work.moved_bytes for work, _ in mine]
            y = [work.flops / (row.median_ms or 1.0) / 1e6 for work, row in mine]
            axes.plot(x, y, color=SERIES[i % 8], linewidth=1.0)
            style = {"color": SERIES[i % 8], "marker": MARKERS[i % 8], "linestyle": "none", "markersize": 7}
            axes.plot(x[:1], y[:1], label=label(bundle), **style)  # type: ignore[arg-type]
            axes.plot(x[1:], y[1:], markerfacecolor="none", **style)  # type: ignore[arg-type]
        scale(axes, "x", [0.3, 300])
        scale(axes, "y", heights)
        axes.set_xlabel("operations a byte moved (FLOP/byte)")
        axes.set_ylabel("GFLOP/s")
        legend_below(axes)

    rows = tuple(
        (
            row.cell.id,
            f"{work.flops / work.moved_bytes:.1f}",
            f"{work.flops / (row.median_ms or 1.0) / 1e6:.2f}",
            percent(row.limit_fraction),
        )
        for _, work, row in points
    )
    return Picture(
        title="Roofline of this host",
        paint=paint,
        height_in=3.4 + 0.2 * len(bundles),
        alt=f"Roofline: operations a second of {len(points)} cells against the ceilings of this host.",
        says="Black: what this host reaches at best in float32, measured at each thread count. Filled: the fastest "
        "cell of a bundle; hollow: eager. The nearer to the roof, the less there is to gain.",
        data=Table(title="Roofline", columns=("cell", "FLOP/byte", "GFLOP/s", "of the roofline"), rows=rows),
    )


def _roof(axes: Axes, ceiling: Ceiling) -> tuple[float, float]:
    """Draw what the host reaches at best on so many threads; return the roof's ends, in GFLOP/s."""
    intensity = np.geomspace(0.3, 300, 200)
    roof = np.minimum(ceiling.gemm_flops_per_s, intensity * ceiling.cache_bytes_per_s) / 1e9
    axes.plot(intensity, roof, color=INK, linewidth=1.2)
    threads = f"{ceiling.threads} thread{'s' if ceiling.threads != 1 else ''}"
    axes.annotate(threads, (300, roof[-1]), ha="right", va="bottom", fontsize=9.5)
    return float(roof[0]), float(roof[-1])


def pareto_pictures(measured: BenchSet, rows: Sequence[Row], *, where: str) -> tuple[Picture, ...]:
    """Return latency against size and against accuracy, the Pareto front marked; ``where`` ends their titles."""
    sized = [row for row in rows if row.is_tuned and row.median_ms and row.cell.file_bytes]
    known = [row for row in sized if row.top1_fraction is not None]
    bundles = [bundle.name for bundle in measured.bundles]
    made = []
    if sized:
        made.append(_trade(sized, bundles, title=f"Size and latency{where}", is_size=True))
    if known:
        made.append(_trade(known, bundles, title=f"Accuracy and latency{where}", is_size=False))
    return tuple(made)


def _trade(rows: Sequence[Row], bundles: Sequence[str], *, title: str, is_size: bool) -> Picture:
    def other(row: Row) -> float:
        return (row.cell.file_bytes or 0) / 1e6 if is_size else 100 * (row.top1_fraction or 0.0)

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for i, bundle in enumerate(bundles):
            mine = [row for row in rows if row.cell.bundle == bundle]
            _points(axes, [row for row in mine if not row.is_pareto], other, i, label=None, markerfacecolor=PAPER)
            _points(axes, [row for row in mine if row.is_pareto], other, i, label=None, markersize=9)
            axes.plot([], [], MARKERS[i % 8], color=SERIES[i % 8], label=label(bundle))
        scale(axes, "x", [row.median_ms or 0.0 for row in rows])
        axes.set_xlabel("median time of one call (ms)")
        if is_size:
            scale(axes, "y", [other(row) for row in rows])
            axes.set_ylabel("file (MB)")
        else:
            axes.set_ylim(max(0.0, min(map(other, rows)) - 8), 100)
            axes.set_ylabel("top-1 (%)")
        legend_below(axes)

    front = [row for row in rows if row.is_pareto]
    better = "towards the lower left" if is_size else "towards the upper left"
    return Picture(
        title=title,
        paint=paint,
        height_in=3.2 + 0.2 * len(bundles),
        alt=f"{title} of {len(rows)} cells; on the Pareto front: {', '.join(row.cell.id for row in front[:4])}"
        f"{f' and {len(front) - 4} more' if len(front) > 4 else ''}.",
        says=f"Better is {better}. Filled: on the Pareto front of size, latency and accuracy together: no other "
        "cell is at least as good in all three and better in one.",
        data=Table(
            title=title,
            columns=("cell", "median", "size", "top-1", "Pareto"),
            rows=tuple(
                (
                    row.cell.id,
                    milliseconds(row.median_ms),
                    megabytes(row.cell.file_bytes),
                    percent(row.top1_fraction),
                    "yes" if row.is_pareto else "no",
                )
                for row in rows
            ),
        ),
    )


def _points(axes: Axes, rows: Sequence[Row], other: Any, i: int, **style: Any) -> None:
    axes.plot(
        [row.median_ms or 0.0 for row in rows],
        [other(row) for row in rows],
        MARKERS[i % 8],
        color=SERIES[i % 8],
        **{"markersize": 6, **style},
    )
