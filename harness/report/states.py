"""What changed on a machine while it measured: the ranges of what its records hold, from process to process."""

from __future__ import annotations

from harness.tables import Table
from harness.types import BenchRun, BenchSet, HostState
from udacisense.types import Scalar

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
        return run.measurement.actual.get(f"{what}_{when}")
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
