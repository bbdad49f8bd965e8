"""In which order a sweep runs its cells: pure planning, nothing runs here.

A sweep goes in rounds. In the *tune* rounds every cell runs once a round; they choose the thread count of each
variant, the leader of each format and runner, and the contenders: variants within twice the time of their bundle's
best. The *report* rounds run contenders, at the fewest threads and at the chosen ones, and leaders; the *final* rounds
leaders and the reference alone. What a table shows of them comes from report and final rounds, so that nothing is
reported on the rounds that chose it. The cells of a round are shuffled, each in a process of its own.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from harness.records import BenchCell, BenchedBundle, BenchedCascade, BenchRun, Budget, Phase
from harness.runners.table import is_gpu

EAGER = "eager"  # runner, format and variant id of the model before any export
FLOOR = "floor"  # variant id of the identity model
# Seconds from starting a process to its first call: interpreter, libraries, the file.
_START_S = {"onnxruntime": 0.2, "onnxruntime-xnnpack": 0.2, "android-x86_64": 0.4, "eager": 2.4}
_START_TORCH_S = 1.3
_CALLS_S = 0.2  # first calls and warm-up
# A variant whose chosen setting is slower than this many times its bundle's best is out of contention.
_CONTENTION = 2.0
_EXPECTED_CONTENDING = 0.2  # share of the variants that are in contention, to tell the time beforehand
# Fewer threads are chosen where they are at most this much slower: they leave cores and battery to the app.
_SAME_SPEED = 1.03


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that a sweep may run; :attr:`expected_s` is printed before it starts."""

    bundles: tuple[BenchedBundle, ...]
    cells: tuple[BenchCell, ...]
    reference: str  # cell id
    budget: Budget
    seed: int
    allow_factory: str | None
    notes: tuple[str, ...]
    expected_s: float
    cascades: tuple[BenchedCascade, ...] = ()

    @property
    def runnable(self) -> tuple[BenchCell, ...]:
        """The cells that nothing keeps from running."""
        return tuple(cell for cell in self.cells if cell.skip_reason is None)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What the tune rounds decided, as cell ids."""

    tuned: tuple[str, ...]  # of each variant, at its chosen thread count
    standing: tuple[str, ...]  # the contenders, at their chosen threads and at the fewest
    leaders: tuple[str, ...]  # the best tuned cell of each bundle, format and runner


@dataclass(frozen=True, kw_only=True)
class Step:
    """One process to start."""

    phase: Phase
    round: int
    cell: BenchCell


def setting(cell: BenchCell) -> tuple[str, ...]:
    """Return what a cell is apart from its thread count: cells that share it are one variant's thread counts."""
    return (cell.bundle or "-", cell.variant_id, cell.runner, cell.engine or "-", str(cell.batch_size))


def choose(plan: Plan, runs: Sequence[BenchRun]) -> Choice:
    """Choose thread counts and leaders on the tune rounds alone; cells that failed there are out."""
    fewest: dict[tuple[str, ...], BenchCell] = {}
    timed = tune_times(runs)
    for cell in sorted(plan.runnable, key=lambda cell: -cell.threads):
        if cell.id in timed:
            fewest[setting(cell)] = cell
    tuned = choose_tuned(plan.runnable, runs)
    fastest: dict[tuple[str | None, int], float] = {}
    best: dict[tuple[str | None, str, str, int], tuple[BenchCell, float]] = {}
    for cell, time_ms in tuned:
        bundle = (cell.bundle, cell.batch_size)
        if not is_gpu(cell.runner):
            fastest[bundle] = min(time_ms, fastest.get(bundle, math.inf))
        key = (cell.bundle, cell.format, cell.runner, cell.batch_size)
        if cell.format != EAGER and (key not in best or time_ms < best[key][1]):
            best[key] = cell, time_ms
    contenders = [c for c, time_ms in tuned if time_ms <= _CONTENTION * fastest.get((c.bundle, c.batch_size), math.inf)]
    return Choice(
        tuned=tuple(cell.id for cell, _ in tuned),
        standing=tuple(dict.fromkeys(i for cell in contenders for i in (fewest[setting(cell)].id, cell.id))),
        leaders=tuple(cell.id for cell, _ in best.values()),
    )


def choose_tuned(cells: Iterable[BenchCell], runs: Iterable[BenchRun]) -> list[tuple[BenchCell, float]]:
    """Return, for each setting that was timed, the chosen thread count's cell and its time (ms) in the tune rounds."""
    times = tune_times(runs)
    by_setting: dict[tuple[str, ...], list[BenchCell]] = {}
    for cell in cells:
        if cell.id in times and cell.bundle is not None:
            by_setting.setdefault(setting(cell), []).append(cell)
    chosen = []
    for group in by_setting.values():
        fastest = min(times[cell.id] for cell in group)
        group.sort(key=lambda cell: cell.threads)
        chosen.append(next(cell for cell in group if times[cell.id] <= fastest * _SAME_SPEED))
    return [(cell, times[cell.id]) for cell in chosen]


def tune_times(runs: Iterable[BenchRun]) -> dict[str, float]:
    """Return cell id → geometric mean of its medians (ms) over the tune rounds."""
    logs: dict[str, list[float]] = {}
    for run in runs:
        timing = run.timing
        if run.phase == "tune" and timing is not None:
            logs.setdefault(run.cell_id, []).append(math.log(timing.median_ms))
    return {name: math.exp(sum(values) / len(values)) for name, values in logs.items()}


def tune_steps(plan: Plan) -> list[Step]:
    """Return the processes of the tune rounds, in order."""
    return [
        Step(phase="tune", round=number, cell=cell)
        for number in range(plan.budget.tune_rounds)
        for cell in shuffled(plan.runnable, plan.seed, number)
    ]


def chosen_steps(plan: Plan, choice: Choice) -> list[Step]:
    """Return the processes of the report, final and memory phases, in order."""
    budget, by_id = plan.budget, {cell.id: cell for cell in plan.cells}
    finalists = dict.fromkeys([*_reference_cells(plan), *choice.leaders])
    steps, number = [], budget.tune_rounds
    phases: list[tuple[Phase, int, Iterable[str]]] = [
        ("report", budget.report_rounds, dict.fromkeys([*finalists, *choice.standing])),
        ("final", budget.final_rounds, finalists),
    ]
    for phase, rounds, ids in phases:
        for _ in range(rounds):
            cells = shuffled([by_id[name] for name in ids], plan.seed, number)
            steps += [Step(phase=phase, round=number, cell=cell) for cell in cells]
            number += 1
    floors = [cell.id for cell in plan.runnable if cell.bundle is None]
    weighed = dict.fromkeys(
        [plan.reference, *choice.leaders, *([*floors, *choice.tuned] if budget.memory == "all" else [])]
    )
    return steps + [Step(phase="memory", round=number, cell=by_id[name]) for name in weighed if name in by_id]


def shuffled(cells: Sequence[BenchCell], seed: int, round_number: int) -> list[BenchCell]:
    """Return the cells in this round's order, the same for the same seed and round."""
    order = list(cells)
    random.Random(f"{seed}/{round_number}").shuffle(order)  # noqa: S311 - an order, not a secret
    return order


def step_seconds(plan: Plan, step: Step) -> float:
    """Return how long a process is expected to take on a quiet host."""
    start = _START_S.get(step.cell.runner, _START_TORCH_S)
    return start + _CALLS_S + (0.0 if step.phase == "memory" else 1.1 * plan.budget.min_s)


def with_expectation(plan: Plan) -> Plan:
    """Fill in ``expected_s``: as if each variant were best at the most threads, and a fifth of them in contention."""
    most: dict[tuple[str, ...], list[BenchCell]] = {}
    for cell in plan.runnable:
        if cell.bundle is not None:
            most.setdefault(setting(cell), []).append(cell)
    tuned = [cells[-1] for cells in most.values()]
    leaders = {(c.bundle, c.format, c.runner, c.batch_size): c.id for c in tuned if c.format != EAGER}
    finals = Choice(tuned=tuple(c.id for c in tuned), standing=(), leaders=tuple(leaders.values()))
    expected = sum(step_seconds(plan, step) for step in [*tune_steps(plan), *chosen_steps(plan, finals)])
    standing = dict.fromkeys(c.id for cells in most.values() for c in (cells[0], cells[-1]))
    other = [c for c in plan.runnable if c.id in standing and c.id not in finals.leaders]
    once = sum(step_seconds(plan, Step(phase="report", round=0, cell=cell)) for cell in other)
    return replace(plan, expected_s=expected + plan.budget.report_rounds * _EXPECTED_CONTENDING * once)


def _reference_cells(plan: Plan) -> list[str]:
    """The eager reference at every thread count: each row is also held against it at its own thread count."""
    cells = {cell.id: cell for cell in plan.runnable}
    if plan.reference not in cells:
        return []
    wanted = setting(cells[plan.reference])
    return [cell.id for cell in cells.values() if setting(cell) == wanted]
