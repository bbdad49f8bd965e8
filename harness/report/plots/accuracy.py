"""Decisions: agreement with the master, accuracy per class, confusion."""

from __future__ import annotations

from collections.abc import Sequence

from exporters.bundle.manifest import Variant
from harness.records import Comparison, Measurement, MeasurementSet
from harness.report.blocks import Heat, Picture
from harness.report.plots.axes import Line, bars, height_of, ranges
from harness.report.plots.svg import SERIES
from harness.report.table import Table
from udacisense.base.display import megabytes, percent
from udacisense.base.records import Outcome
from udacisense.pipeline.techniques import TechniquesRecord


def compared(measured: MeasurementSet) -> list[tuple[str, Measurement, Comparison]]:
    """Return the cells whose answers were compared, each with its name."""
    return [
        (f"{m.spec.variant_id} on {m.spec.runner}{f'@{m.spec.engine}' if m.spec.engine else ''}", m, m.comparison)
        for m in measured.measurements
        if m.comparison is not None
    ]


def agreement_picture(measured: MeasurementSet) -> Picture | None:
    """Return how often each file decides as the float32 master does, with Wilson's interval."""
    cells = compared(measured)
    if not cells:
        return None
    lines = [
        Line(
            name=cell,
            low=100 * c.top1_agreement_low,
            high=100 * c.top1_agreement_high,
            value=100 * c.top1_agreement_fraction,
            text=f"{len(c.flips)} of {c.n_inputs} flip",
            colour=SERIES[0] if m.outcome is Outcome.PASSED else SERIES[1],
            is_hollow=m.outcome is not Outcome.PASSED,
        )
        for cell, m, c in cells
    ]

    rows = tuple(
        (
            cell,
            percent(c.top1_agreement_fraction),
            f"{100 * c.top1_agreement_low:.2f} to {100 * c.top1_agreement_high:.2f} %",
            str(len(c.flips)),
            str(c.n_inputs),
            str(m.outcome),
        )
        for cell, m, c in cells
    )
    worst = min(cells, key=lambda entry: entry[2].top1_agreement_fraction)
    return Picture(
        title="Agreement with the float32 master",
        paint=ranges(lines, x_label="same top-1 as the float32 master (% of images, 95 % interval)"),
        height_in=height_of(len(lines)),
        alt=f"Agreement of {len(cells)} cells with the float32 master; the lowest is {worst[0]} with "
        f"{percent(worst[2].top1_agreement_fraction)}.",
        says="Dot: the share of images with the same top-1. Line: Wilson's 95 % interval; it is wider where fewer "
        "images were compared. Hollow dots failed.",
        data=Table(
            title="Agreement",
            columns=("cell", "agreement", "interval", "flips", "images", "outcome"),
            rows=rows,
        ),
    )


def size_picture(variants: Sequence[Variant]) -> Picture | None:
    """Return each file's size; what holds int8 weights is marked."""
    sized = [(v, v.file_bytes) for v in variants if v.file_bytes is not None]
    if not sized:
        return None
    sized.sort(key=lambda entry: entry[1])
    lines = [
        Line(
            name=v.id,
            low=0.0,
            high=size / 1e6,
            value=size / 1e6,
            text=megabytes(size) or "",
            colour=SERIES[0] if v.precision == "fp32" else SERIES[2],
        )
        for v, size in sized
    ]

    return Picture(
        title="File sizes",
        paint=bars(lines, x_label="file (MB, decimal)"),
        height_in=height_of(len(lines)),
        alt=f"Sizes of {len(sized)} files, from {sized[0][0].id} with {megabytes(sized[0][1])} to "
        f"{sized[-1][0].id} with {megabytes(sized[-1][1])}.",
        says="Blue: float32; green: another precision.",
        data=Table(
            title="File sizes",
            columns=("variant", "size", "precision"),
            rows=tuple((v.id, megabytes(size), v.precision) for v, size in sized),
        ),
    )


def class_heat(measured: MeasurementSet, *, title: str) -> Heat | None:
    """Return accuracy per class of the master and of every cell that saw labelled images; equal rows are joined."""
    joined: dict[tuple[int, tuple[tuple[str, float], ...]], list[str]] = {}
    for cell, _, c in compared(measured):
        if c.per_class is None:
            continue
        if c.reference_per_class is not None:
            names = joined.setdefault((c.n_inputs, tuple(c.reference_per_class.items())), [])
            if "float32 master" not in names:
                names.insert(0, "float32 master")
        joined.setdefault((c.n_inputs, tuple(c.per_class.items())), []).append(cell)
    if not joined:
        return None
    columns = tuple(dict.fromkeys(name for _, items in joined for name, _ in items))
    rows = tuple(
        (f"{', '.join(names)} ({n} images)", tuple(_share(dict(items).get(column)) for column in columns))
        for (n, items), names in sorted(joined.items(), key=lambda entry: -entry[0][0])
    )
    return Heat(
        title=title,
        corner="cells with these figures",
        columns=columns,
        rows=rows,
        says="Top-1 in percent of each class's images. Cells that answer alike share a row; cells on fewer images "
        "stand in rows of their own, because other images give other figures.",
    )


def shift_heats(measured: MeasurementSet) -> tuple[Heat, ...]:
    """Return accuracy under shift, of every cell that saw shifted photos, and of the master by severity."""
    cells = [(cell, c.shifts) for cell, _, c in compared(measured) if c.shifts is not None]
    if not cells:
        return ()
    first = cells[0][1]
    columns = tuple(row.shift for row in first.accuracy)
    named = [("float32 master", first.reference_accuracy), *((cell, found.accuracy) for cell, found in cells)]
    by_cell = tuple(
        (name, tuple(_share(sum(row.top1_fractions) / len(row.top1_fractions)) for row in rows)) for name, rows in named
    )
    by_severity = tuple(
        (str(severity + 1), tuple(_share(row.top1_fractions[severity]) for row in first.reference_accuracy))
        for severity in range(len(first.accuracy[0].top1_fractions))
    )
    says = f"Top-1 in percent of {first.n_images} test images"
    return (
        Heat(
            title="Accuracy under shift",
            corner="cell",
            columns=columns,
            rows=by_cell,
            says=f"{says}, the mean of five severities.",
        ),
        Heat(
            title="Accuracy of the float32 master by severity of the shift",
            corner="severity",
            columns=columns,
            rows=by_severity,
            says=f"{says}; severities 1 to 5 as in CIFAR-10-C where that has the shift.",
        ),
    )


def stage_heat(stages: Sequence[tuple[str, dict[str, float]]], *, title: str) -> Heat | None:
    """Return accuracy per class, a row a stage."""
    columns = tuple(dict.fromkeys(name for _, per_class in stages for name in per_class))
    if not columns:
        return None
    rows = tuple((name, tuple(_share(found.get(column)) for column in columns)) for name, found in stages)
    return Heat(
        title=title, corner="stage", columns=columns, rows=rows, says="Top-1 in percent of each class's images."
    )


def confusion_heat(matrix: Sequence[Sequence[int]], labels: Sequence[str], *, title: str, figures: str) -> Heat:
    """Return a confusion matrix; each row is shaded by its own share."""
    names = tuple(labels) if len(labels) == len(matrix) else tuple(str(i) for i in range(len(matrix)))
    rows = tuple(
        (true, tuple((str(count), count / sum(row) if sum(row) else None) for count in row))
        for true, row in zip(names, matrix, strict=True)
    )
    return Heat(
        title=title,
        corner="true class",
        columns=names,
        rows=rows,
        says=f"Images of each true class (row) by the answer given (column). {figures}",
    )


def top1_picture(found: TechniquesRecord) -> Picture:
    """Return every technique's top-1 with Wilson's interval."""
    base = 100 * found.baseline.top1_fraction
    lines = [
        Line(
            name=row.name,
            low=100 * row.top1_interval[0],
            high=100 * row.top1_interval[1],
            value=100 * row.figures.top1_fraction,
            text=f"{percent(row.figures.top1_fraction)}, {row.latency_ratio:.2f}× the time",
        )
        for row in found.results
    ]

    return Picture(
        title="Accuracy of each technique",
        paint=ranges(lines, x_label="top-1 (%, 95 % interval); upright line: the baseline", upright=base),
        height_in=height_of(len(lines)),
        alt=f"Top-1 of {len(lines)} techniques against the baseline's {base:.1f} %.",
        says="A line that crosses the baseline's may be chance. The time is the ratio to the baseline's.",
        data=Table(
            title="Accuracy of each technique",
            columns=("technique", "top-1", "interval", "time ratio"),
            rows=tuple(
                (
                    row.name,
                    percent(row.figures.top1_fraction),
                    f"{100 * row.top1_interval[0]:.1f} to {100 * row.top1_interval[1]:.1f} %",
                    f"{row.latency_ratio:.2f}",
                )
                for row in found.results
            ),
        ),
    )


def _share(fraction: float | None) -> tuple[str, float | None]:
    return ("–", None) if fraction is None else (f"{100 * fraction:.0f}", fraction)
