"""Times, a part for each machine that measured: figures of two machines never stand in one ranking."""

from __future__ import annotations

from pathlib import Path

from harness.bench.ranking import Row
from harness.records import BenchSet
from harness.report.collect import Evidence, OneHost, by_host
from harness.report.html.blocks import Block, Chapter, Grid, Part, Prose, gallery
from harness.report.html.plots.cost import roofline_picture
from harness.report.html.plots.latency import (
    Sweep,
    drift_picture,
    ecdf_picture,
    engines_picture,
    limits_table,
    settling_picture,
    spread_picture,
    threads_picture,
)
from harness.report.sections import disagreements_text, host_name, latency_text, ranked
from harness.report.table import Table
from harness.report.tables import instructions_table, latency_table, states_table


def latency_chapter(evidence: Evidence) -> Chapter:
    """Return one part a machine."""
    machines = by_host(evidence)
    parts: list[Block] = [
        Part(
            title=f"Measured on {host_name(one.host)}",
            blocks=(
                Grid(table=_machine_table(one)),
                *(
                    block
                    for j, (path, measured) in enumerate(one.benches)
                    for block in _sweep(path, measured, ranked(evidence, measured), name=f"m{i}s{j}")
                ),
            ),
        )
        for i, one in enumerate(machines)
    ]
    if len(machines) > 1:
        text = (
            f"{len(machines)} machines measured. Each has a part and a ranking of its own: their times do not compare."
        )
        parts.insert(0, Prose(text=text))
    return Chapter(anchor="latency", title="Latency", blocks=tuple(parts))


def _machine_table(one: OneHost) -> Table:
    host = one.host
    rows = (
        ("processor", f"{host.cpu} ({host.machine})"),
        ("cores", f"{host.physical_cores} physical, {host.logical_cores} logical"),
        ("memory", f"{host.memory_bytes / 2**30:.1f} GiB"),
        ("system", f"{host.system}, Python {host.python}"),
        ("frequency governor", host.governor),
        ("load before the sweep", None if host.load_average is None else f"{host.load_average:.2f}"),
    )
    return Table(title="The machine", columns=("property", "value"), rows=rows)


def _sweep(path: Path, measured: BenchSet, rows: list[Row], *, name: str) -> list[Block]:
    sweeps = [
        Sweep(
            measured=measured,
            bundle=bundle.name,
            rows=tuple(row for row in rows if row.cell.bundle == bundle.name and row.median_ms is not None),
        )
        for bundle in measured.bundles
    ]
    told, states = disagreements_text(measured, rows), states_table(measured)
    blocks: list[Block] = [
        Prose(text=f"{latency_text(measured)} Record: {path}."),
        *((Prose(text=told, tone="open"),) if told else ()),
        *((Grid(table=states),) if states is not None else ()),
        *gallery([roofline_picture(measured, sweeps, name=f"{name}-roofline")]),
    ]
    for i, sweep in enumerate(sweeps):
        if sweep.rows:
            blocks.append(Part(title=sweep.bundle, blocks=tuple(_bundle(sweep, name=f"{name}b{i}"))))
    if measured.instructions:
        blocks.append(Grid(table=instructions_table(measured.instructions)))
    blocks.append(Part(title="Every cell", blocks=(Grid(table=latency_table(rows, title="Cells")),)))
    return blocks


def _bundle(sweep: Sweep, *, name: str) -> list[Block]:
    threads = threads_picture(sweep, name=f"{name}-threads")
    blocks: list[Block] = [
        *gallery(
            [
                spread_picture(sweep, name=f"{name}-spread"),
                engines_picture(sweep, name=f"{name}-engines"),
                ecdf_picture(sweep, name=f"{name}-ecdf"),
                settling_picture(sweep, name=f"{name}-settling"),
                drift_picture(sweep, name=f"{name}-drift"),
                threads,
            ]
        ),
    ]
    if threads is None:
        counts = sorted({row.cell.spec.threads for row in sweep.rows})
        alone = ", ".join(f"{count} thread{'s' if count != 1 else ''}" for count in counts)
        text = f"Thread scaling was not measured: these cells ran at {alone} alone."
        blocks.append(Prose(text=text, tone="open"))
    blocks.append(Grid(table=limits_table(sweep)))
    return blocks
