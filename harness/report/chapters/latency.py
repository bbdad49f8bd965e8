"""Times, a part for each machine that measured: figures of two machines never stand in one ranking."""

from __future__ import annotations

from harness.bench.instructions import disagreements
from harness.host import host_name
from harness.records import BenchSet
from harness.report.blocks import Block, Chapter, Part, Prose, gallery
from harness.report.collect import Evidence, OneHost, Ranked
from harness.report.plots.cost import roofline_picture
from harness.report.plots.latency import (
    Sweep,
    drift_picture,
    ecdf_picture,
    engines_picture,
    limits_table,
    settling_picture,
    spread_picture,
    threads_picture,
)
from harness.report.table import Table
from harness.report.tables import instructions_table, latency_table, state_ranges, states_table


def latency_chapter(evidence: Evidence) -> Chapter:
    """Return one part a machine."""
    machines = evidence.machines
    parts: list[Block] = [
        Part(
            title=f"Measured on {host_name(one.host)}",
            blocks=(_machine_table(one), *(block for sweep in one.sweeps for block in _sweep(sweep))),
        )
        for one in machines
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


def _conditions(measured: BenchSet) -> str:
    """Say under which conditions a sweep ran, and how to read its table."""
    host = measured.host
    load = "not shown" if host.load_average is None else f"{host.load_average:.2f}"
    is_hidden = measured.runs and not state_ranges(measured)
    hidden = " While it measured, this host showed no load, frequency or temperature." if is_hidden else ""
    return (
        f"Measured on {host_name(host)}, {host.system}, load {load}, {measured.created_utc}, budget "
        f"{measured.budget.name}{'' if measured.complete else ', interrupted'}. Batch 1 unless the cell says "
        "otherwise. Each time is the median of processes of their own, at the cell's thread count. A speed-up is "
        f"against eager float32 on as many threads, with its 99 % interval; a tie is an interval that spans 1.{hidden}"
    )


def _sweep(sweep: Ranked) -> list[Block]:
    measured, rows = sweep.measured, sweep.rows
    bundles = [
        Sweep(
            measured=measured,
            bundle=bundle.name,
            rows=tuple(row for row in rows if row.cell.bundle == bundle.name and row.median_ms is not None),
        )
        for bundle in measured.bundles
    ]
    blocks: list[Block] = [Prose(text=f"{_conditions(measured)} Record: {sweep.path}.")]
    if told := disagreements(measured, rows):
        lines = "\n".join(f"- {line}" for line in told)
        blocks.append(Prose(text=f"ARM instructions against the times of this host:\n\n{lines}", tone="open"))
    if (states := states_table(measured)) is not None:
        blocks.append(states)
    blocks += gallery([roofline_picture(measured, bundles)])
    blocks += [Part(title=one.bundle, blocks=_bundle(one)) for one in bundles if one.rows]
    if measured.instructions:
        blocks.append(instructions_table(measured.instructions))
    blocks.append(Part(title="Every cell", blocks=(latency_table(rows, title="Cells"),)))
    return blocks


def _bundle(sweep: Sweep) -> tuple[Block, ...]:
    threads = threads_picture(sweep)
    pictures = [
        spread_picture(sweep),
        engines_picture(sweep),
        ecdf_picture(sweep),
        settling_picture(sweep),
        drift_picture(sweep),
        threads,
    ]
    blocks = list(gallery(pictures))
    if threads is None:
        counts = sorted({row.cell.threads for row in sweep.rows})
        alone = ", ".join(f"{count} thread{'s' if count != 1 else ''}" for count in counts)
        text = f"Thread scaling was not measured: these cells ran at {alone} alone."
        blocks.append(Prose(text=text, tone="open"))
    return (*blocks, limits_table(sweep))
