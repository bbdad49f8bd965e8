"""Which cells a sweep has: pure planning, nothing runs here. Their order is ``harness.bench.rounds``'s."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from exporters.bundle.manifest import Manifest, Variant
from harness.bench.jobs import FLOOR_FORMATS
from harness.bench.rounds import EAGER, FLOOR, Plan, with_expectation
from harness.records import BenchCell, BenchedBundle, Budget
from harness.runners.onnxruntime import LEVELS
from harness.runners.table import Runner, is_gpu, runners_for
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
class SweepOptions:
    """What a sweep is asked for."""

    budget: str = "default"  # row of BUDGETS
    threads: Sequence[int] | None = None  # thread counts; None: 1 … the physical cores that this process may use
    # Quantised engines for int8 variants of PyTorch formats; None: the one each was packed for (with the thorough
    # budget, every engine that can run it).
    engines: Sequence[str] | None = None
    graph_optimizations: Sequence[str] | None = None  # onnxruntime's levels for `.onnx`; None: its default
    variants: Sequence[str] | None = None  # ids to keep; None: all
    batch_sizes: Sequence[int] = (1,)  # images a call
    reference: str | None = None  # bundle whose eager model is the 1.0 of every ratio; None: "baseline", else the first
    seed: int = 0  # of the order within rounds and of the bootstrap
    allow_factory: str | None = None  # the ``package.module:factory`` of a bundle's model that may be imported


@dataclass(frozen=True, kw_only=True)
class Here:
    """What this host can do."""

    cores: int  # physical ones that may be used
    engines: tuple[str, ...]  # quantised ones that this PyTorch was built with
    unavailable: Mapping[str, str | None]  # runner name → why this host cannot run it, or None


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


def make_plan(sources: Sequence[Source], options: SweepOptions, here: Here) -> Plan:
    """Lay out the cells of a sweep; ratios are made to the eager model of one of the sources.

    Raises:
        InputError: an option is not what is allowed, or no cell is left.
    """
    budget = find_budget(options.budget)
    _check_names(sources, options, here)
    grid = _Grid(
        options=options,
        here=here,
        threads=check_threads(options.threads, here.cores),
        batches=check_batch_sizes(options.batch_sizes),
    )
    cells = [cell for source in sources for cell in _bundle_cells(source, grid)]
    if not any(cell.skip_reason is None and cell.format != EAGER for cell in cells):
        reasons = "; ".join(sorted({cell.skip_reason for cell in cells if cell.skip_reason}))
        raise InputError(f"There is nothing to measure: {reasons or 'no variant was exported'}.")
    names = [s.bundle.name for s in sources if s.manifest.name == "baseline"] or [sources[0].bundle.name]
    plan = Plan(
        bundles=tuple(source.bundle for source in sources),
        cells=(*cells, *_floor_cells(cells, grid)),
        reference=cell_id(options.reference or names[0], EAGER, None, grid.threads[0], grid.batches[0]),
        budget=budget,
        seed=options.seed,
        allow_factory=options.allow_factory,
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

    options: SweepOptions
    here: Here
    threads: tuple[int, ...]
    batches: tuple[int, ...]

    def cells(self, bundle: str, variant: Variant, runner: Runner) -> Iterable[BenchCell]:
        """Yield a variant's cells on one runner: engine × batch size × thread count."""
        reason = self.here.unavailable.get(runner.name)
        if variant.outcome is not Outcome.PASSED:
            reason = f"not exported ({variant.outcome}): {variant.reason}"
        blank = _blank(bundle, variant.id, variant.format, runner.name)
        blank = replace(blank, precision=variant.precision, file_bytes=variant.file_bytes)
        for engine, engine_reason in self._engines(variant, runner):
            for batch in self.batches:
                fixed = f"exported for batches of {variant.batch}" if variant.batch not in {None, batch} else None
                yield from self._by_threads(
                    blank, _label(variant.id, runner), engine, batch, reason or engine_reason or fixed
                )

    def eager(self, bundle: str | None, label: str, format_name: str, runner: str) -> Iterable[BenchCell]:
        """Yield the cells of a float32 model that is no file of a bundle: the eager one, or a runtime's floor."""
        blank = _blank(bundle, label, format_name, runner)
        for batch in self.batches if bundle is not None else self.batches[:1]:
            yield from self._by_threads(blank, label, None, batch, self.here.unavailable.get(runner))

    def _by_threads(
        self, blank: BenchCell, label: str, engine: str | None, batch: int, why: str | None
    ) -> Iterable[BenchCell]:
        # What is skipped is said once; a call's own cost (the floor) and a GPU know no threads.
        is_once = blank.bundle is None or why is not None or is_gpu(blank.runner)
        for threads in self.threads[:1] if is_once else self.threads:
            name = cell_id(blank.bundle, label, engine, threads, batch)
            yield replace(blank, id=name, engine=engine, threads=threads, batch_size=batch, skip_reason=why)

    def _engines(self, variant: Variant, runner: Runner) -> list[tuple[str | None, str | None]]:
        """Return (engine, why not) pairs; one pair without an engine where none applies."""
        if variant.format == "onnx" and self.options.graph_optimizations:
            return [(level, None) for level in self.options.graph_optimizations]  # an .ort was optimised when written
        if not runner.quantized_engines or not variant.precision.startswith("int8"):
            return [(None, None)]
        wanted = self.options.engines or (self.here.engines if self.options.budget == "thorough" else None)
        engines = list(wanted or [variant.engine or self.here.engines[0]])
        if variant.engine is not None:
            family = _X86 if variant.engine in _X86 else (variant.engine,)
            # A variant that was packed for another family has no row here: its own twin has one.
            engines = [engine for engine in engines if engine in family]
        missing = "this PyTorch was built without the quantised engine"
        return [(engine, None if engine in self.here.engines else f"{missing} {engine}") for engine in engines]


def _blank(bundle: str | None, variant_id: str, format_name: str, runner: str) -> BenchCell:
    """Return a cell of a float32 model without a file, to be filled in."""
    return BenchCell(
        id="",
        bundle=bundle,
        variant_id=variant_id,
        format=format_name,
        precision="fp32",
        file_bytes=None,
        runner=runner,
        engine=None,
        threads=1,
        batch_size=1,
        skip_reason=None,
    )


def _label(variant_id: str, runner: Runner) -> str:
    """Name the runner where a format has several timed ones; the first of them is the plain one."""
    plain = {timed[0].name for f in runner.formats if (timed := [r for r in runners_for(f) if r.is_timed])}
    return variant_id if runner.name in plain else f"{variant_id}[{runner.name}]"


def _bundle_cells(source: Source, grid: _Grid) -> Iterable[BenchCell]:
    name, wanted = source.bundle.name, grid.options.variants
    yield from grid.eager(name, EAGER, EAGER, EAGER)
    for variant in source.manifest.variants:
        if is_wanted(name, variant.id, wanted):
            for runner in runners_for(variant.format):
                if runner.is_timed and not _is_left_to_a_note(variant, runner, grid):
                    yield from grid.cells(name, variant, runner)


def is_wanted(bundle: str, variant_id: str, wanted: Sequence[str] | None) -> bool:
    """Tell whether a variant was asked for: by its id, of a cascade's member also by that of the cascade's bundle."""
    return wanted is None or not {variant_id, f"{bundle.rpartition('.')[2]}.{variant_id}"}.isdisjoint(wanted)


def _is_left_to_a_note(variant: Variant, runner: Runner, grid: _Grid) -> bool:
    """No GPU, or no kernels there for the precision: a note of the sweep says so once, not a row for each variant."""
    return runner.is_gpu and (variant.precision != "fp32" or grid.here.unavailable.get(runner.name) is not None)


def _floor_cells(cells: Sequence[BenchCell], grid: _Grid) -> Iterable[BenchCell]:
    """Yield one identity model a runtime that the sweep uses."""
    used: dict[str, str] = {}
    for cell in cells:
        if cell.skip_reason is None and cell.format in FLOOR_FORMATS:
            used.setdefault(cell.runner, cell.format)
    for runner, format_name in used.items():
        yield from grid.eager(None, f"{FLOOR}-{runner}", format_name, runner)


def _check_names(sources: Sequence[Source], options: SweepOptions, here: Here) -> None:
    if not sources:
        raise InputError("No bundle was given; give the folder that 'udacisense export' wrote.")
    names = [source.bundle.name for source in sources]
    if options.reference is not None and options.reference not in names:
        raise InputError(f"The reference '{options.reference}' is not one of the bundles: {', '.join(names)}.")
    held = [(source.bundle.name, variant.id) for source in sources for variant in source.manifest.variants]
    unknown = sorted(name for name in options.variants or () if not any(is_wanted(*one, [name]) for one in held))
    if unknown:
        known = {variant_id for _, variant_id in held}
        hint = did_you_mean(unknown[0], known)
        raise InputError(f"No bundle holds {', '.join(unknown)}; they hold {', '.join(sorted(known))}.{hint}")
    absent = sorted(set(options.engines or ()) - set(here.engines))
    if absent:
        raise InputError(
            f"This PyTorch has no quantised engine {', '.join(absent)}; it has {', '.join(here.engines) or 'none'}."
            f"{did_you_mean(absent[0], here.engines)}"
        )
    levels = sorted(set(options.graph_optimizations or ()) - set(LEVELS))
    if levels:
        raise InputError(f"onnxruntime has no graph optimisation level {levels[0]}; choose of {', '.join(LEVELS)}.")
