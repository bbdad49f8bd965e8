"""Which cells a sweep has: pure planning, nothing runs here. Their order is ``harness.bench.rounds``'s."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from exporters.bundle.manifest import Manifest, Variant
from harness.bench.jobs import FLOOR_FORMATS
from harness.bench.rounds import EAGER, FLOOR, Plan, with_expectation
from harness.records import BenchCell, BenchedBundle, Budget, RunSpec
from harness.runners.onnxruntime import LEVELS
from harness.runners.table import RUNNERS, Runner, runners_for
from udacisense.base.records import Outcome
from udacisense.errors import InputError, did_you_mean

BUDGETS: dict[str, Budget] = {
    row.name: row
    for row in (
        Budget(
            name="quick",
            tune_rounds=1,
            report_rounds=0,
            final_rounds=3,
            memory="leaders",
            warmup=10,
            min_samples=20,
            min_s=0.2,
            max_s=1.0,
            timeout_s=60,
        ),
        Budget(
            name="default",
            tune_rounds=1,
            report_rounds=3,
            final_rounds=9,
            memory="all",
            warmup=20,
            min_samples=30,
            min_s=0.4,
            max_s=3,
            timeout_s=120,
        ),
        Budget(
            name="thorough",
            tune_rounds=3,
            report_rounds=7,
            final_rounds=13,
            memory="all",
            warmup=50,
            min_samples=50,
            min_s=1.5,
            max_s=10,
            timeout_s=300,
        ),
    )
}

# Engines whose packed weights are interchangeable: all of them are x86 kernels with 8-bit activations.
_X86 = ("x86", "fbgemm", "onednn")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A bundle to be measured."""

    bundle: BenchedBundle
    manifest: Manifest


def check_threads(threads: Sequence[int] | None, cores: int) -> tuple[int, ...]:
    """Return the thread counts to try, ascending: those given, else 1 … ``cores``.

    Raises:
        InputError: none given, or one below 1 or over four times the cores.
    """
    if threads is None:
        return tuple(range(1, cores + 1))
    most = 4 * cores
    wrong = [n for n in threads if not 1 <= n <= most]
    if wrong or not threads:
        given = ", ".join(map(str, wrong)) or "nothing"
        raise InputError(f"Threads must be from 1 to {most} on this host of {cores} cores; given: {given}.")
    return tuple(sorted(set(threads)))


def check_batch_sizes(batch_sizes: Sequence[int]) -> tuple[int, ...]:
    """Return the batch sizes, ascending.

    Raises:
        InputError: none given, or one outside 1 … 4096.
    """
    wrong = [n for n in batch_sizes if not 1 <= n <= 4096]
    if wrong or not batch_sizes:
        given = ", ".join(map(str, wrong)) or "nothing"
        raise InputError(f"Batch sizes must be from 1 to 4096; given: {given}.")
    return tuple(sorted(set(batch_sizes)))


def find_budget(name: str) -> Budget:
    """Return a row of :data:`BUDGETS`.

    Raises:
        InputError: there is none of that name.
    """
    if name not in BUDGETS:
        raise InputError(f"There is no budget '{name}'; choose one of {', '.join(BUDGETS)}.")
    return BUDGETS[name]


def make_plan(
    sources: Sequence[Source],
    *,
    budget: str,
    threads: Sequence[int] | None,
    engines: Sequence[str] | None,
    supported_engines: Sequence[str],
    graph_optimizations: Sequence[str] | None,
    variants: Sequence[str] | None,
    batch_sizes: Sequence[int],
    seed: int,
    reference: str | None,
    sustained_s: float | None,
    unavailable: Mapping[str, str | None],
    cores: int,
) -> Plan:
    """Lay out the cells of a sweep.

    Args:
        sources: the bundles; ratios are made to the eager model of one of them.
        budget: name of a row of :data:`BUDGETS`.
        threads: thread counts, or None for 1 … ``cores``.
        engines: quantised engines for int8 variants; None: the one each variant was packed for (with the thorough
            budget, every engine that can run it).
        supported_engines: what this PyTorch was built with.
        graph_optimizations: onnxruntime's levels (``disabled``, ``basic``, ``extended``, ``all``) for ``.onnx``; None:
            its default.
        variants: variant ids to keep; None: all.
        batch_sizes: images a call.
        seed: of the order within rounds and of the bootstrap.
        reference: name of the bundle whose eager model is the 1.0 of every ratio; None: the one called "baseline",
            else the first.
        sustained_s: length of a sustained run of each leader, or None.
        unavailable: runner name → why this host cannot run it, or None.
        cores: physical cores that may be used.

    Raises:
        InputError: an option is not what is allowed, or no cell is left.
    """
    counts = check_threads(threads, cores)
    batches = check_batch_sizes(batch_sizes)
    row = find_budget(budget)
    _check_names(sources, variants, engines, supported_engines, reference)
    unknown = sorted(set(graph_optimizations or ()) - set(LEVELS))
    if unknown:
        raise InputError(f"onnxruntime has no graph optimisation level {unknown[0]}; choose of {', '.join(LEVELS)}.")
    if engines is None and budget == "thorough":
        engines = tuple(supported_engines)
    grid = _Grid(
        budget=row,
        threads=counts,
        batches=batches,
        engines=engines,
        levels=graph_optimizations,
        supported=tuple(supported_engines),
        unavailable=unavailable,
        seed=seed,
    )
    cells = [cell for source in sources for cell in _bundle_cells(source, grid, variants)]
    if not any(cell.skip_reason is None and cell.format != EAGER for cell in cells):
        reasons = "; ".join(sorted({cell.skip_reason for cell in cells if cell.skip_reason}))
        raise InputError(f"There is nothing to measure: {reasons or 'no variant was exported'}.")
    cells += _floor_cells(cells, grid)
    name = reference or next((s.bundle.name for s in sources if s.manifest.name == "baseline"), sources[0].bundle.name)
    plan = Plan(
        bundles=tuple(source.bundle for source in sources),
        cells=tuple(cells),
        reference=cell_id(name, EAGER, None, counts[0], batches[0]),
        budget=row,
        seed=seed,
        sustained_s=sustained_s,
        allow_factory=None,
        notes=(),
        expected_s=0.0,
    )
    return with_expectation(plan)


def cell_id(bundle: str | None, label: str, engine: str | None, threads: int, batch_size: int) -> str:
    """Return the name of a cell: ``<bundle>/<variant>[@engine] t<threads>[ b<batch>]``."""
    at = f"@{engine}" if engine else ""
    batch = f" b{batch_size}" if batch_size != 1 else ""
    return f"{bundle or '-'}/{label}{at} t{threads}{batch}"


@dataclass(frozen=True, kw_only=True)
class _Grid:
    """The options that every cell is made from."""

    budget: Budget
    threads: tuple[int, ...]
    batches: tuple[int, ...]
    engines: Sequence[str] | None
    levels: Sequence[str] | None
    supported: tuple[str, ...]
    unavailable: Mapping[str, str | None]
    seed: int

    def cells(
        self, *, bundle: str | None, variant: Variant | None, label: str, runner: Runner, format_name: str
    ) -> list[BenchCell]:
        reason = self.unavailable.get(runner.name)
        if variant is not None and variant.outcome is not Outcome.PASSED:
            reason = f"not exported ({variant.outcome}): {variant.reason}"
        made = []
        for engine, engine_reason in self._engines(variant, runner):
            for batch in self.batches if bundle is not None else self.batches[:1]:
                fixed = variant is not None and variant.batch not in {None, batch}
                batch_reason = f"exported for batches of {variant.batch}" if variant and fixed else None
                why = reason or engine_reason or batch_reason
                # What is skipped is said once; a call's own cost (the floor) and a GPU know no threads.
                is_once = bundle is None or why is not None or runner.is_gpu
                for threads in self.threads[:1] if is_once else self.threads:
                    made.append(
                        BenchCell(
                            id=cell_id(bundle, label, engine, threads, batch),
                            bundle=bundle,
                            format=format_name,
                            precision=variant.precision if variant else "fp32",
                            file_bytes=variant.file_bytes if variant else None,
                            spec=self._spec(variant.id if variant else label, runner.name, engine, threads, batch),
                            skip_reason=why,
                        )
                    )
        return made

    def _engines(self, variant: Variant | None, runner: Runner) -> list[tuple[str | None, str | None]]:
        """Return (engine, why not) pairs; one pair without an engine where none applies."""
        if variant is not None and variant.format == "onnx" and self.levels:
            return [(level, None) for level in self.levels]  # an .ort was optimised when it was written
        if variant is None or not runner.quantized_engines or not variant.precision.startswith("int8"):
            return [(None, None)]
        wanted = list(self.engines) if self.engines is not None else [variant.engine or self.supported[0]]
        if variant.engine is not None:
            family = _X86 if variant.engine in _X86 else (variant.engine,)
            # A variant that was packed for another family has no row here: its own twin has one.
            wanted = [engine for engine in wanted if engine in family]
        missing = "this PyTorch was built without the quantised engine"
        return [(engine, None if engine in self.supported else f"{missing} {engine}") for engine in wanted]

    def _spec(self, variant_id: str, runner: str, engine: str | None, threads: int, batch: int) -> RunSpec:
        budget = self.budget
        return RunSpec(
            variant_id=variant_id,
            runner=runner,
            engine=engine,
            threads=threads,
            batch_size=batch,
            warmup=budget.warmup,
            min_samples=budget.min_samples,
            min_s=budget.min_s,
            max_s=budget.max_s,
            timeout_s=budget.timeout_s,
            seed=self.seed,
        )


def _label(variant_id: str, runner: Runner) -> str:
    """Name the runner where a format has several timed ones; the first of them is the plain one."""
    plain = {timed[0].name for f in runner.formats if (timed := [r for r in runners_for(f) if r.is_timed])}
    return variant_id if runner.name in plain else f"{variant_id}[{runner.name}]"


def _bundle_cells(source: Source, grid: _Grid, variants: Sequence[str] | None) -> list[BenchCell]:
    name = source.bundle.name
    cells = grid.cells(bundle=name, variant=None, label=EAGER, runner=RUNNERS[EAGER], format_name=EAGER)
    for variant in source.manifest.variants:
        if variants is not None and variant.id not in variants:
            continue
        for runner in runners_for(variant.format):
            if runner.is_timed and not _is_left_to_a_note(variant, runner, grid):
                cells += grid.cells(
                    bundle=name,
                    variant=variant,
                    label=_label(variant.id, runner),
                    runner=runner,
                    format_name=variant.format,
                )
    return cells


def _is_left_to_a_note(variant: Variant, runner: Runner, grid: _Grid) -> bool:
    """No GPU, or no kernels there for the precision: a note of the sweep says so once, not a row for each variant."""
    return runner.is_gpu and (variant.precision != "fp32" or grid.unavailable.get(runner.name) is not None)


def _floor_cells(cells: Sequence[BenchCell], grid: _Grid) -> list[BenchCell]:
    """One identity model a runtime that the sweep uses."""
    used: dict[str, str] = {}
    for cell in cells:
        if cell.skip_reason is None and cell.format in FLOOR_FORMATS:
            used.setdefault(cell.spec.runner, cell.format)
    return [
        cell
        for runner, format_name in used.items()
        for cell in grid.cells(
            bundle=None, variant=None, label=f"{FLOOR}-{runner}", runner=RUNNERS[runner], format_name=format_name
        )
    ]


def _check_names(
    sources: Sequence[Source],
    variants: Sequence[str] | None,
    engines: Sequence[str] | None,
    supported: Sequence[str],
    reference: str | None,
) -> None:
    if not sources:
        raise InputError("No bundle was given; name at least one folder that holds a manifest.json.")
    names = [source.bundle.name for source in sources]
    if reference is not None and reference not in names:
        raise InputError(f"The reference '{reference}' is not one of the bundles: {', '.join(names)}.")
    known = {variant.id for source in sources for variant in source.manifest.variants}
    unknown = sorted(set(variants or ()) - known)
    if unknown:
        hint = did_you_mean(unknown[0], known)
        raise InputError(f"No bundle holds {', '.join(unknown)}; they hold {', '.join(sorted(known))}.{hint}")
    absent = sorted(set(engines or ()) - set(supported))
    if absent:
        raise InputError(
            f"This PyTorch has no quantised engine {', '.join(absent)}; it has {', '.join(supported) or 'none'}."
            f"{did_you_mean(absent[0], supported)}"
        )
