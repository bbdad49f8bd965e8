"""What the thresholds of a cascade trade: accuracy against the mean time of an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.report.blocks import Picture
from harness.report.plots.axes import legend_below, scale
from harness.report.plots.svg import MARKERS, SERIES, label
from harness.report.table import Table
from udacisense.measure.cascade import Cascade, CascadePoint, Figure

if TYPE_CHECKING:
    from matplotlib import figure as mpl


def cascade_picture(made: Cascade) -> Picture:
    """Return the curve, its chosen point, the same thresholds on the test images, and each member alone."""

    def paint(figure: mpl.Figure) -> None:
        axes = figure.subplots()
        shown = [
            ("chosen, held-back images", made.chosen.mean_ms, made.chosen.top1_fraction),
            ("chosen, test images", made.test.mean_ms, made.test.top1_fraction),
            *((f"{one.name} alone, test images", one.latency_ms, one.top1_fraction) for one in made.members),
        ]
        x = [point.mean_ms.value for point in made.curve]
        y = [100 * point.top1_fraction.value for point in made.curve]
        axes.plot(x, y, color=SERIES[0], marker=".", label="thresholds, held-back images")
        for i, (name, time, top1) in enumerate(shown):
            half = [[100 * (top1.value - top1.low)], [100 * (top1.high - top1.value)]]
            axes.errorbar(
                [time.value],
                [100 * top1.value],
                yerr=half,
                color=SERIES[i],
                marker=MARKERS[i],
                markersize=9,
                linestyle="none",
                label=label(name),
            )
        scale(axes, "x", [*x, *(time.value for _, time, _ in shown)])
        axes.set_xlabel("mean time of an image (ms, eager PyTorch, one thread)")
        axes.set_ylabel("top-1 (%)")
        legend_below(axes)

    chosen = made.chosen
    return Picture(
        title=f"Accuracy and mean time of {made.name}",
        paint=paint,
        height_in=4.2 + 0.2 * len(made.members),
        alt=f"Accuracy against mean time of {len(made.curve)} thresholds; chosen: "
        f"{100 * chosen.top1_fraction.value:.1f} % at {chosen.mean_ms.value:.3g} ms.",
        says="Each point of the line is a set of thresholds that no other beats in both. Whiskers: 95 %.",
        data=cascade_table(made),
    )


def cascade_table(made: Cascade) -> Table:
    """Return the curve, the chosen point on the held-back and on the test images, and each member alone."""
    rows: list[tuple[str | None, ...]]
    rows = [("held back, chosen" if point == made.chosen else "held back", *_row(point)) for point in made.curve]
    rows.append(("test images", *_row(made.test)))
    rows += [
        (f"{one.name} alone, test images", None, None, _text(one.top1_fraction, 100, "%"), None, _ms(one.latency_ms))
        for one in made.members
    ]
    notes = (
        f"Asked: images that go past {made.members[0].name}, whose best two probabilities are closer than the "
        f"threshold. Chosen on {made.n_held_back} held-back images, reported on {made.n_test} test images of "
        f"{made.data}; in brackets the 95 % interval. Points lost: to {made.members[-1].name} alone, on the same "
        "images. Mean time: eager PyTorch on one thread; 'bench' times the exported files.",
        *made.notes,
    )
    columns = ("images", "thresholds", "asked", "top-1", "points lost", "mean time")
    return Table(title=f"Cascade {made.name}", columns=columns, rows=tuple(rows), notes=notes)


def _row(point: CascadePoint) -> tuple[str, str, str, str, str]:
    return (
        ", ".join(f"{value:g}" for value in point.thresholds),
        _text(point.asked_fraction, 100, "%"),
        _text(point.top1_fraction, 100, "%"),
        _text(point.lost_points, 1, ""),
        _ms(point.mean_ms),
    )


def _text(found: Figure, factor: float, unit: str) -> str:
    value, low, high = (f"{factor * part:.1f}" for part in (found.value, found.low, found.high))
    return f"{value}{f' {unit}' if unit else ''} ({low} to {high})"


def _ms(found: Figure) -> str:
    return f"{found.value:.3g} ms ({found.low:.3g} to {found.high:.3g})"
