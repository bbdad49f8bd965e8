"""Times, a part for each machine that measured: figures of two machines never stand in one ranking."""

from __future__ import annotations

from harness.bench.cascade import cascade_rows, with_ways
from harness.bench.instructions import disagreements
from harness.host import host_name
from harness.records import BenchRun, BenchSet, HostState
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
from harness.report.tables import cascades_table, instructions_table, latency_table
from udacisense.base.records import Scalar


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
    if cascades := cascade_rows(measured, rows, sweep.verified):
        blocks.append(cascades_table(cascades))
    if measured.instructions:
        blocks.append(instructions_table(with_ways(measured.instructions, measured.cascades, sweep.verified)))
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


Ranges = dict[str, dict[str, tuple[float, float]]]  # what -> "before", "during", "after" a process -> least and most

_WHEN = ("before", "during", "after")
_HOST = {"load_average": "load average", "frequency_mhz": "frequency", "temperature_c": "temperature"}
# What the demo app writes beside a row's figures; a desk has none of it.
_PHONE = {"thermal": "thermal status, 0 (none) to 6", "battery_percent": "battery"}
_AS_TEXT = {  # format and unit
    "load_average": (".2f", ""),
    "frequency_mhz": (".0f", " MHz"),
    "temperature_c": (".1f", " °C"),
    "thermal": (".0f", ""),
    "battery_percent": (".0f", " %"),
}


def state_ranges(measured: BenchSet) -> Ranges:
    """Return the least and the most of what a sweep's processes found; what was never shown is left out."""
    seen: dict[str, dict[str, list[float]]] = {}
    for run in measured.runs:
        for what in _AS_TEXT:
            for when in _WHEN:
                value = _value(run, what, when)
                if isinstance(value, int | float) and not isinstance(value, bool):
                    seen.setdefault(what, {}).setdefault(when, []).append(value)
    return {
        what: {when: (min(values), max(values)) for when, values in found.items()}
        for what in _AS_TEXT
        if (found := seen.get(what)) is not None
    }


def _value(run: BenchRun, what: str, when: str) -> Scalar:
    if what in _PHONE:
        return run.actual.get(f"{what}_{when}")
    states: dict[str, HostState] = {"before": run.before, "after": run.after}
    value: Scalar = getattr(states[when], what) if when in states else None
    return value


def states_table(measured: BenchSet) -> Table | None:
    """Return one row for each that was shown; None where nothing was, which ``latency_text`` says."""
    ranges = state_ranges(measured)
    if not ranges:
        return None
    shown = [when for when in _WHEN if any(when in found for found in ranges.values())]
    rows = tuple(
        ((_HOST | _PHONE)[what], *(_range(what, found.get(when)) for when in shown)) for what, found in ranges.items()
    )
    missing = ", ".join(name for what, name in _HOST.items() if what not in ranges)
    notes = (f"Not shown by this host: {missing}.",) if missing else ()
    columns = ("least to most", *("while timing" if when == "during" else when for when in shown))
    title = "The machine, before and after each process"
    return Table(title=title, columns=columns, rows=rows, notes=notes)


def _range(what: str, found: tuple[float, float] | None) -> str | None:
    if found is None:
        return None
    form, unit = _AS_TEXT[what]
    least, most = (format(value, form) for value in found)
    return f"{least}{unit}" if least == most else f"{least} to {most}{unit}"
