"""Axes that stay readable on a phone: names above their lines, plain numbers, the legend below."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from harness.report.plots.svg import DASHES, INK, MARKERS, MUTED, SERIES, label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Paint = Callable[[Figure], None]

_WIDE = 6.0  # a span of more than this many times is drawn on a logarithmic axis
ROW_IN = 0.46


@dataclass(frozen=True, kw_only=True)
class Line:
    """One row of a drawing of ranges."""

    name: str
    low: float
    high: float
    value: float
    inner: tuple[float, float] | None = None  # drawn thick
    colour: str = SERIES[0]
    is_hollow: bool = False
    text: str = ""  # stands behind the name


def scale(axes: Axes, which: str, values: Sequence[float]) -> bool:
    """Make an axis ("x" or "y") fit for the values: logarithmic where they span much. Returns whether it is."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    positive = [value for value in values if value > 0]
    is_log = bool(positive) and len(positive) == len(values) and max(positive) > _WIDE * min(positive)
    axis = axes.xaxis if which == "x" else axes.yaxis
    if is_log:
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
        steps = (1.0, 2.0, 5.0) if max(positive) < 300 * min(positive) else (1.0,)
        axis.set_major_locator(LogLocator(subs=steps, numticks=12))
        axis.set_minor_formatter(NullFormatter())
    # matplotlib's own logarithmic labels are mathematical text, which is not parsed here.
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return is_log


def ranges(lines: Sequence[Line], *, x_label: str, upright: float | None = None) -> Paint:
    """Draw each line as low - high with its value, the name above it, from top to bottom; ``upright`` across all."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for i, line in enumerate(lines):
            axes.plot([line.low, line.high], [i, i], color=line.colour, linewidth=1.4, solid_capstyle="butt")
            if line.inner is not None:
                axes.plot(line.inner, [i, i], color=line.colour, linewidth=5, alpha=0.45, solid_capstyle="butt")
            face = "none" if line.is_hollow else line.colour
            axes.plot([line.value], [i], "o", color=line.colour, markerfacecolor=face, markersize=6)
            _name_above(axes, i, line)
        _rows(axes, len(lines))
        scale(axes, "x", [v for line in lines for v in (line.low, line.high, line.value)])
        axes.set_xlabel(x_label)
        if upright is not None:
            axes.axvline(upright, color=INK, linewidth=1.0)

    return paint


def bars(lines: Sequence[Line], *, x_label: str) -> Paint:
    """Draw each line as a bar from its low to its high end, the name above it."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for i, line in enumerate(lines):
            colours: dict[str, Any] = {"color": "none" if line.is_hollow else line.colour, "edgecolor": line.colour}
            axes.barh(i + 0.12, line.high - line.low, left=line.low, height=0.30, linewidth=1.2, **colours)
            axes.plot([line.value, line.value], [i - 0.08, i + 0.32], color=INK, linewidth=1.6)
            _name_above(axes, i, line)
        _rows(axes, len(lines))
        axes.set_xlim(left=0)
        axes.set_xlabel(x_label)

    return paint


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One series of a drawing of curves."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def curves(
    found: Sequence[Curve],
    *,
    x_label: str,
    y_label: str,
    fit: Literal["x", "y"] | None = None,
    ticks: Mapping[float, str] | None = None,
    is_marked: bool = False,
) -> Paint:
    """Draw each curve in a colour and dashes of its own.

    Args:
        found: at most as many as there are colours.
        x_label: under the drawing.
        y_label: beside it.
        fit: the axis that is logarithmic where its values span much.
        ticks: of the x axis, with their names; None: as matplotlib sets them.
        is_marked: every point has a marker.
    """

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for i, curve in enumerate(found):
            marker = MARKERS[i] if is_marked else ""
            style: dict[str, Any] = {"color": SERIES[i], "linestyle": DASHES[i], "marker": marker}
            axes.plot(curve.x, curve.y, label=label(curve.name), **style)
        if fit is not None:
            scale(axes, fit, [value for curve in found for value in (curve.x if fit == "x" else curve.y)])
        if ticks is not None:
            axes.set_xticks(list(ticks), list(ticks.values()))
            axes.margins(x=0.1)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        legend_below(axes)

    return paint


def _name_above(axes: Axes, row: int, line: Line) -> None:
    """Write a row's name, and a figure at the other end of its line."""
    style: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "bottom", "fontsize": 9.5}
    axes.text(0.0, row - 0.2, label(line.name), ha="left", **style)
    if line.text:
        axes.text(1.0, row - 0.2, line.text, ha="right", color=MUTED, **style)


def _rows(axes: Axes, count: int) -> None:
    axes.set_ylim(count - 0.5, -0.8)
    axes.set_yticks([])
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)


def legend_below(axes: Axes) -> None:
    """Put the legend under the drawing, where it hides nothing."""
    figure = axes.get_figure()
    handles, names = axes.get_legend_handles_labels()
    if figure is not None and handles:
        figure.legend(handles, names, loc="outside lower left")


def height_of(rows: int) -> float:
    """Return the height (inches) of a drawing with so many named rows."""
    return 0.75 + ROW_IN * max(rows, 1)
