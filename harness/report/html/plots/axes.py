"""Axes that stay readable on a phone: names above their lines, plain numbers, the legend below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.report.html.plots.svg import INK, MUTED, SERIES, label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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


def ranges(axes: Axes, lines: Sequence[Line], *, x_label: str) -> None:
    """Draw each line as low - high with its value, the name above it, from top to bottom."""
    for i, line in enumerate(lines):
        axes.plot([line.low, line.high], [i, i], color=line.colour, linewidth=1.4, solid_capstyle="butt")
        if line.inner is not None:
            axes.plot(line.inner, [i, i], color=line.colour, linewidth=5, alpha=0.45, solid_capstyle="butt")
        face = "none" if line.is_hollow else line.colour
        axes.plot([line.value], [i], "o", color=line.colour, markerfacecolor=face, markersize=6)
        name_above(axes, i, line.name, line.text)
    _rows(axes, len(lines))
    scale(axes, "x", [v for line in lines for v in (line.low, line.high, line.value)])
    axes.set_xlabel(x_label)


def name_above(axes: Axes, row: int, name: str, text: str = "") -> None:
    """Write a row's name, and a figure at the other end of its line."""
    transform = axes.get_yaxis_transform()
    style: dict[str, Any] = {"transform": transform, "va": "bottom", "fontsize": 9.5}
    axes.text(0.0, row - 0.2, label(name), ha="left", **style)
    if text:
        axes.text(1.0, row - 0.2, text, ha="right", color=MUTED, **style)


def _rows(axes: Axes, count: int) -> None:
    axes.set_ylim(count - 0.5, -0.8)
    axes.set_yticks([])
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)


def bars(axes: Axes, lines: Sequence[Line], *, x_label: str) -> None:
    """Draw each line as a bar from its low to its high end, the name above it."""
    for i, line in enumerate(lines):
        style: dict[str, Any] = {
            "color": "none" if line.is_hollow else line.colour,
            "edgecolor": line.colour,
            "linewidth": 1.2,
        }
        axes.barh(i + 0.12, line.high - line.low, left=line.low, height=0.30, **style)
        axes.plot([line.value, line.value], [i - 0.08, i + 0.32], color=INK, linewidth=1.6)
        name_above(axes, i, line.name, line.text)
    _rows(axes, len(lines))
    axes.set_xlim(left=0)
    axes.set_xlabel(x_label)


def legend_below(axes: Axes, *, columns: int = 1) -> None:
    """Put the legend under the drawing, where it hides nothing."""
    figure = axes.get_figure()
    handles, names = axes.get_legend_handles_labels()
    if figure is not None and handles:
        figure.legend(handles, names, loc="outside lower left", ncols=columns)


def height_of(rows: int) -> float:
    """Return the height (inches) of a drawing with so many named rows."""
    return 0.75 + ROW_IN * max(rows, 1)
