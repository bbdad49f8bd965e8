"""What a search tried: learning against ARM instructions, and the front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.report.blocks import Picture
from harness.report.plots.axes import legend_below, scale
from harness.report.plots.svg import MUTED, PAPER, SERIES
from harness.report.table import Table
from udacisense.pipeline.search.record import SearchRecord, TriedNetwork

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def front(rows: Sequence[TriedNetwork]) -> list[TriedNetwork]:
    """Return the networks that no other one beats in both ARM instructions and validation loss, cheapest first."""
    best: list[TriedNetwork] = []
    for row in sorted(rows, key=lambda r: (r.cost.arm_instructions, _loss(r))):
        if not best or _loss(row) < _loss(best[-1]):
            best.append(row)
    return best


def search_picture(found: SearchRecord) -> Picture | None:
    """Return validation loss against estimated ARM instructions; None where no network was trained to its end."""
    rows = [row for row in found.tried if row.validation_loss is not None]
    whole = [row for row in rows if row.outcome == "finished"]
    if not whole:
        return None
    line, chosen = front(whole), {row.trial for row in found.finalists}

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        groups = (
            ("halved", [r for r in rows if r.outcome == "halved"], {"color": MUTED, "markerfacecolor": PAPER}),
            ("trained to the end", [r for r in whole if r.trial not in chosen], {"color": SERIES[0]}),
            ("finalist", [r for r in whole if r.trial in chosen], {"color": SERIES[1], "markersize": 9}),
        )
        axes.plot([_millions(r) for r in line], [_loss(r) for r in line], color=SERIES[0], linewidth=1.0, label="front")
        for label, mine, style in groups:
            axes.plot([_millions(r) for r in mine], [_loss(r) for r in mine], "o", label=label, **style)
        if found.limits.arm_instructions is not None:
            axes.axvline(found.limits.arm_instructions / 1e6, color=MUTED, linestyle="--", linewidth=1.0)
        scale(axes, "x", [_millions(r) for r in rows])
        axes.set_xlabel("ARM instructions of a call, estimated (millions)")
        axes.set_ylabel("validation loss")
        legend_below(axes)

    return Picture(
        title="Learning and cost",
        paint=paint,
        height_in=4.0,
        alt=f"Validation loss against ARM instructions of {len(rows)} networks; on the front: "
        f"{', '.join(f'network {r.trial}' for r in line[:6])}.",
        says="Better is towards the lower left. Line: no other network that was trained to its end learns more for "
        "less. Hollow: training ended early, so that its loss is not its last. Dashed: the limit.",
        data=Table(
            title="Front",
            columns=("network", "ARM instructions", "validation loss"),
            rows=tuple((str(r.trial), f"{_millions(r):.2f} M", f"{_loss(r):.4f}") for r in line),
        ),
    )


def _millions(row: TriedNetwork) -> float:
    return row.cost.arm_instructions / 1e6


def _loss(row: TriedNetwork) -> float:
    assert row.validation_loss is not None
    return row.validation_loss
