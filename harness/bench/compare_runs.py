"""Two sweeps of one host, held against each other; and a plan against the sweep that it may go on with."""

from __future__ import annotations

import numpy as np

from harness.bench.ranking import reported_medians
from harness.bench.rounds import Plan
from harness.host import machine_differences, require_like, software_differences
from harness.records import BenchSet, Host
from udacisense.base.records import record
from udacisense.errors import InputError
from udacisense.measure.stats import Interval, unpaired_ratio


@record
class Change:
    """One cell in two sets."""

    cell_id: str
    before_ms: float
    after_ms: float
    ratio: Interval | None  # after over before: below 1 is faster
    verdict: str  # "faster", "slower", "tie"


@record
class SetComparison:
    """Two sets of one host, cell by cell."""

    changes: tuple[Change, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    notes: tuple[str, ...]


def plan_differences(plan: Plan, host: Host, kept: BenchSet) -> list[str]:
    """Return in what a plan on this host differs from a kept sweep; where in nothing, it can go on with that."""
    found = []
    if {b.name: b.sha256 for b in plan.bundles} != {b.name: b.sha256 for b in kept.bundles}:
        found.append("the bundles or their manifests")
    for name in ("budget", "seed", "reference"):
        if getattr(plan, name) != getattr(kept, name):
            mine, theirs = getattr(plan, name), getattr(kept, name)
            found.append(f"{name}: {getattr(mine, 'name', mine)} against {getattr(theirs, 'name', theirs)}")
    if {cell.id for cell in plan.runnable} != {cell.id for cell in kept.cells if cell.skip_reason is None}:
        found.append("the cells: other threads, engines, variants or batch sizes")
    found += machine_differences(kept.host, host)
    return found + software_differences(kept.host, host)


def compare_sets(before: BenchSet, after: BenchSet) -> SetComparison:
    """Compare two sweeps of the same host, cell by cell.

    Rounds of two sweeps did not run side by side, so nothing is paired: the interval is Welch's on the logarithms of
    the processes' medians. Where the eager reference itself changed, a note says so: then the host was not in the
    same state, or its libraries changed.

    Raises:
        InputError: the hosts are unlike, or no cell is in both sets.
    """
    require_like(before.host, after.host)
    left = {cell.id: medians for cell in before.cells if (medians := reported_medians(before, cell.id))}
    right = {cell.id: medians for cell in after.cells if (medians := reported_medians(after, cell.id))}
    shared = [name for name in left if name in right]
    if not shared:
        raise InputError("The two sets have no cell in common; measure the same variants, threads and batch sizes.")
    changes = []
    for name in shared:
        made = unpaired_ratio(list(right[name].by_round.values()), list(left[name].by_round.values()))
        verdict = "tie" if made is None or made.is_tie else "faster" if made.value < 1 else "slower"
        changes.append(
            Change(
                cell_id=name,
                before_ms=float(np.median(list(left[name].by_round.values()))),
                after_ms=float(np.median(list(right[name].by_round.values()))),
                ratio=made,
                verdict=verdict,
            )
        )
    notes = software_differences(before.host, after.host)
    notes += [
        f"the reference {change.cell_id} itself is {change.verdict} ({change.before_ms:.3g} ms, then "
        f"{change.after_ms:.3g} ms): the host was not in the same state, or its libraries changed"
        for change in changes
        if change.cell_id == before.reference and change.verdict != "tie"
    ]
    return SetComparison(
        changes=tuple(changes),
        only_before=tuple(name for name in left if name not in right),
        only_after=tuple(name for name in right if name not in left),
        notes=tuple(notes),
    )
