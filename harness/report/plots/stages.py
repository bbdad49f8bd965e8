"""How size, latency and accuracy went from stage to stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from harness.report.blocks import Picture
from harness.report.plots.axes import Line, bars, height_of
from harness.report.plots.svg import SERIES
from harness.report.table import Table
from udacisense.base.display import megabytes, milliseconds, percent
from udacisense.base.records import StageRecord
from udacisense.pipeline.run import RunRecord

_WHOLE, _WORSE, _BETTER = SERIES[0], SERIES[1], SERIES[2]


def stage_pictures(run: RunRecord) -> tuple[Picture, ...]:
    """Return the waterfalls of size, latency and top-1."""
    return (
        _waterfall(
            run,
            title="Size",
            unit="MB",
            value=lambda s: s.file_bytes / 1e6,
            shown=lambda s: megabytes(s.file_bytes),
            change=lambda now, was: f"{100 * (now / was - 1):+.1f} %" if was else None,
            more_is_better=False,
        ),
        _waterfall(
            run,
            title="Latency of one image",
            unit="ms",
            value=lambda s: s.latency_ms,
            shown=lambda s: milliseconds(s.latency_ms),
            change=lambda now, was: f"{100 * (now / was - 1):+.1f} %" if was else None,
            more_is_better=False,
        ),
        _waterfall(
            run,
            title="Top-1 accuracy",
            unit="%",
            value=lambda s: 100 * s.top1_fraction,
            shown=lambda s: percent(s.top1_fraction),
            change=lambda now, was: f"{now - was:+.1f} points",
            more_is_better=True,
        ),
    )


def _waterfall(
    run: RunRecord,
    *,
    title: str,
    unit: str,
    value: Callable[[StageRecord], float],
    shown: Callable[[StageRecord], str | None],
    change: Callable[[float, float], str | None],
    more_is_better: bool,
) -> Picture:
    stages = (run.baseline, *run.stages)
    values = [value(stage) for stage in stages]
    changes = [None, *(change(now, was) for was, now in pairwise(values))]
    texts = [f"{shown(s)}{f' ({c})' if c else ''}" for s, c in zip(stages, changes, strict=True)]
    lines = [
        Line(
            name=stage.stage,
            low=0.0 if i == 0 else min(values[i - 1], values[i]),
            high=values[i] if i == 0 else max(values[i - 1], values[i]),
            value=values[i],
            colour=_colour(values, i, more_is_better=more_is_better),
            is_hollow=i > 0 and values[i] == values[i - 1],
            text=texts[i],
        )
        for i, stage in enumerate(stages)
    ]

    path = "; ".join(f"{stage.stage} {text}" for stage, text in zip(stages, texts, strict=True))
    return Picture(
        title=title,
        paint=bars(lines, x_label=f"{title.lower()} ({unit})"),
        height_in=height_of(len(lines)),
        alt=f"{title} by stage of {run.name}: {path}.",
        says="The first bar is the baseline; each further one spans what its stage changed, and the dark tick is where "
        "it ended.",
        data=_data(title, stages, shown, changes),
    )


def _colour(values: Sequence[float], i: int, *, more_is_better: bool) -> str:
    if i == 0:
        return _WHOLE
    grew = values[i] > values[i - 1]
    return _BETTER if grew == more_is_better else _WORSE


def _data(
    title: str,
    stages: Sequence[StageRecord],
    shown: Callable[[StageRecord], str | None],
    changes: Sequence[str | None],
) -> Table:
    rows = tuple((stage.stage, shown(stage), c) for stage, c in zip(stages, changes, strict=True))
    return Table(title=title, columns=("stage", title.lower(), "change by this stage"), rows=rows)
