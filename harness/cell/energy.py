"""Energy a call, from the processor's own counters (Linux powercap, RAPL), where they may be read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import perf_counter

POWERCAP = Path("/sys/class/powercap")
_WINDOW_S = 0.5  # the counters tick about every millisecond; a window hides that


def energy_mj_per_call(call: Callable[[], object], *, powercap: Path = POWERCAP) -> tuple[float | None, str | None]:
    """Run ``call`` for half a second and return (millijoules a call, None), or (None, why it is unavailable).

    The figure is what the processor packages drew in that time, whatever drew it: on a quiet host, this call and
    the idle power under it.
    """
    zones, reason = _package_zones(powercap)
    if reason is not None:
        return None, reason
    before = [_read(zone / "energy_uj") for zone in zones]
    start, calls = perf_counter(), 0
    while perf_counter() - start < _WINDOW_S:
        call()
        calls += 1
    drawn_uj = 0
    for zone, first in zip(zones, before, strict=True):
        last = _read(zone / "energy_uj")
        # The counter starts again at zero once it has reached its range.
        drawn_uj += last - first if last >= first else last + _read(zone / "max_energy_range_uj") - first
    return drawn_uj / 1e3 / calls, None


def _package_zones(powercap: Path) -> tuple[list[Path], str | None]:
    if not powercap.is_dir():
        return [], f"unavailable: this host has no {powercap} (a virtual machine, or not Linux)"
    # intel-rapl:0 is a package, intel-rapl:0:1 a part of it; AMD's counters appear under the same names.
    zones = [zone for zone in sorted(powercap.glob("intel-rapl:*")) if zone.name.count(":") == 1]
    if not zones:
        return [], f"unavailable: {powercap} holds no RAPL package counter"
    try:
        for zone in zones:
            _read(zone / "energy_uj")
    except OSError as exc:
        return [], f"unavailable: {exc.filename} cannot be read ({exc.strerror}); it needs the administrator's rights"
    return zones, None


def _read(path: Path) -> int:
    return int(path.read_text())
