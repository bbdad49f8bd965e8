"""The plots of the techniques' record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from udacisense.base.files import atomic_path
from udacisense.base.records import read_json
from udacisense.pipeline.techniques import TechniquesRecord
from udacisense.training.types import History

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_TOP1_TICKS = (*range(10, 80, 10), 75, 80, 85, 90, 95, 100)  # %, of the plot


def write_plots(found: TechniquesRecord, folder: Path) -> tuple[Path, ...]:
    """Write the Pareto plot, a confusion matrix for each model, and a history for each that trained, as SVG.

    Args:
        found: the record.
        folder: where ``techniques.json`` and the techniques' own folders are.

    Returns:
        The files.
    """
    import matplotlib as mpl

    written: list[Path] = []

    def keep(figure: Figure, name: str) -> None:
        target = folder / name
        with atomic_path(target) as partial, mpl.rc_context({"svg.hashsalt": name}):
            figure.savefig(partial, format="svg", metadata={"Date": None}, bbox_inches="tight")
        written.append(target)

    keep(_pareto(found), "pareto.svg")
    keep(_confusion("baseline", found.baseline_confusion, found.class_names), "confusion-baseline.svg")
    for row in found.results:
        keep(_confusion(row.name, row.confusion, found.class_names), f"confusion-{row.name}.svg")
        history = folder / row.name / "steps" / f"01-{row.name}" / History.FILE_NAME
        if history.is_file():
            keep(history_figure(row.name, history), f"history-{row.name}.svg")
    return tuple(written)


def _pareto(found: TechniquesRecord) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.8))
    axes = figure.add_subplot()
    base = found.baseline
    points = [("baseline", 1.0, base.top1_fraction, base.file_bytes)]
    points += [(r.name, r.latency_ratio, r.figures.top1_fraction, r.figures.file_bytes) for r in found.results]
    points.sort(key=lambda p: (-p[2], p[1]))
    for place, (name, ratio, top1, size) in enumerate(points):
        is_best = not any(q[1] <= ratio and q[2] >= top1 and q[1:3] != (ratio, top1) for q in points)
        color = "tab:blue" if is_best else "tab:gray"
        axes.scatter(ratio, 100 * top1, s=20 + size / 4e4, alpha=0.8, color=color)
        # Names stand in a column beside the axes, from accurate to not: many techniques share a place in the plot.
        axes.annotate(
            f"{name}  {ratio:.2f}×, {100 * top1:.1f} %",
            (ratio, 100 * top1),
            xytext=(1.06, 1 - place / max(1, len(points) - 1)),
            textcoords="axes fraction",
            va="center",
            fontsize=8,
            arrowprops={"arrowstyle": "-", "color": color, "alpha": 0.35, "linewidth": 0.7, "relpos": (0, 0.5)},
        )
    # Errors in logarithms: between 82 and 84 % lies more than between 32 and 34.
    axes.set_yscale("function", functions=(lambda top1: -np.log(101 - top1), lambda y: 101 - np.exp(-y)))
    axes.set_yticks([tick for tick in _TOP1_TICKS if axes.get_ylim()[0] <= tick <= axes.get_ylim()[1]])
    axes.set_xlabel("time of a call, ratio to the baseline (left is faster)")
    axes.set_ylabel("top-1, %")
    axes.set_title("Blue: nothing is both faster and more accurate. The area is the file size.", fontsize=9)
    axes.grid(alpha=0.3)
    return figure


def _confusion(name: str, matrix: Sequence[Sequence[int]], labels: Sequence[str]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 5.4))
    axes = figure.add_subplot()
    axes.imshow(matrix, cmap="Blues")
    axes.set_xticks(range(len(labels)), labels, rotation=60, ha="right", fontsize=8)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    most = max(max(row) for row in matrix)
    for true, row in enumerate(matrix):
        for answered, count in enumerate(row):
            if count:
                colour = "white" if count > most / 2 else "black"
                axes.text(answered, true, str(count), ha="center", va="center", fontsize=7, color=colour)
    axes.set_xlabel("answered")
    axes.set_ylabel("true")
    axes.set_title(name)
    return figure


def history_figure(name: str, path: Path) -> Figure:
    """Draw a training history: losses and the validation's top-1 by epoch."""
    from matplotlib.figure import Figure

    epochs = read_json(History, path).epochs
    numbers = [e.epoch for e in epochs]
    figure = Figure(figsize=(7, 3.6))
    left = figure.add_subplot()
    left.plot(numbers, [e.train_loss for e in epochs], color="tab:blue", label="training loss", marker=".")
    left.set_xlabel("epoch")
    left.set_ylabel("training loss", color="tab:blue")
    left.grid(alpha=0.3)
    shares = [e.validation_top1_fraction for e in epochs]
    if all(share is not None for share in shares):
        right = left.twinx()
        right.plot(numbers, [100 * (s or 0.0) for s in shares], color="tab:orange", marker=".")
        right.set_ylabel("validation top-1, %", color="tab:orange")
    left.set_title(name)
    return figure
