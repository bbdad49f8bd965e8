"""``udacisense bench``: every variant × engine × thread count, timed so that it is believed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from udacisense.cli.options import (
    BundlePath,
    OutputPath,
    allow_factory_option,
    record_beside,
    thread_counts,
    variant_option,
    writable,
)
from udacisense.cli.output import (
    Choice,
    duration,
    emit_json,
    keep_prints_apart,
    next_command,
    render,
    say,
    say_cost,
    show,
)

if TYPE_CHECKING:
    from harness.bench.cells import SweepOptions
    from harness.bench.rounds import Plan
    from harness.records import BenchSet, MeasurementSet


@click.command("bench", short_help="Time every exported file on this machine.")
@click.argument("bundles", nargs=-1, type=BundlePath())
@click.option("--quick", "budget", flag_value="quick", help="Fewer rounds: a first look.")
@click.option("--thorough", "budget", flag_value="thorough", help="More rounds: narrow intervals.")
@click.option("--threads", help="Thread counts, e.g. 1,2,4. Default: 1 to the physical cores.")
@click.option("--engine", "engines", multiple=True, help="Quantised engine for int8; may be repeated.")
@variant_option("bundles")
@click.option("--batch", "batch_sizes", multiple=True, type=int, help="Images a call; may be repeated. Default: 1.")
@click.option("--seed", default=0, show_default=True)
@click.option("-o", "--output", type=OutputPath(), help="Record; default: BUNDLE.bench.json.")
@click.option("--resume", is_flag=True, help="Go on with the sweep that the record holds.")
@click.option("--dry-run", is_flag=True, help="Say what would be measured and how long it takes, and stop.")
@click.option("--arm-instructions", is_flag=True, help="Also count each file's ARM instructions a call, under qemu.")
@click.option("--only-instructions", is_flag=True, help="Count them and time nothing.")
@click.option("--compare", nargs=2, type=click.Path(path_type=Path), help="Compare two records of one host instead.")
@click.option(
    "--graph-optimization", "graph_optimizations", multiple=True, help="onnxruntime: disabled, basic, extended, all."
)
@click.option(
    "--reference", help="Bundle whose eager model is the 1.0 of every ratio. Default: 'baseline', else the first."
)
@click.option(
    "--verification",
    "verifications",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Record of 'verify': its accuracies.",
)
@allow_factory_option
@click.option(
    "--format",
    "form",
    default="table",
    show_default=True,
    type=Choice(["table", "markdown", "csv", "json"]),
    callback=keep_prints_apart,
)
def command(
    *,
    bundles: tuple[Path, ...],
    output: Path | None,
    resume: bool,
    dry_run: bool,
    arm_instructions: bool,
    only_instructions: bool,
    compare: tuple[Path, Path] | None,
    verifications: tuple[Path, ...],
    form: str,
    **asked: Any,
) -> None:
    """Time the variants of BUNDLES, one process per cell, in shuffled rounds; ratios are to the eager baseline.

    Several bundles in one run can be held against each other. Ctrl-C keeps what was measured; --resume goes on. The
    record holds the setting of each bundle that is recommended.
    """
    from harness.bench.run import plan_sweep, run_sweep
    from harness.records import MeasurementSet
    from udacisense.base.progress import progress
    from udacisense.base.records import read_json

    if compare is not None:
        _compare(*compare, form)
        return
    options = _options(**asked)
    plan = plan_sweep(bundles, options)
    path = output or writable(record_beside(bundles[0], "bench"))
    verified = [read_json(MeasurementSet, p) for p in (*verifications, *_beside(bundles))]
    is_counting = arm_instructions or only_instructions
    counted, uncounted = _countable(plan, options, is_needed=only_instructions) if is_counting else ([], ())
    _say_plan(None if only_instructions else plan, len(counted), path)
    if dry_run:
        return
    if only_instructions:
        _count(plan, counted, uncounted, verified, form)
        return
    more: dict[str, Any] = {"resume": resume, "arm_instructions": arm_instructions, "verifications": verified}
    try:
        with progress("timing", plan.expected_s) as advance:
            measured = run_sweep(plan, out=path, on_progress=advance, **more)
    except KeyboardInterrupt:
        _say_kept(path)
        raise
    _tell(measured, verified, uncounted, form)
    if form == "table":
        _say_next(path, bundles)


def _countable(plan: Plan, options: SweepOptions, *, is_needed: bool) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
    """Return what can be counted, and why the rest cannot; nothing at all is refused where it is needed."""
    from harness.bench.instructions import countable, left_out
    from udacisense.errors import InputError

    counted, uncounted = countable(plan.bundles, options.variants), left_out(plan.bundles, options.variants)
    if is_needed and not counted:
        why = "; ".join(uncounted) or "the bundles hold no file that was asked for"
        raise InputError(f"There is nothing to count: {why}.")
    return counted, uncounted


def _say_next(path: Path, bundles: tuple[Path, ...]) -> None:
    say(f"\nKept in {path}.")
    next_command("udacisense", "report", *dict.fromkeys(bundle.parent for bundle in bundles), "-o", "report.md")


def _options(*, budget: str | None, threads: str | None, seed: int, **others: Any) -> SweepOptions:
    """Return what the sweep is asked for; an option that was not given keeps its default."""
    from harness.bench.cells import SweepOptions

    given = {name: value for name, value in others.items() if value}
    return SweepOptions(
        budget=budget or "default", threads=None if threads is None else thread_counts(threads), seed=seed, **given
    )


def _say_plan(plan: Plan | None, counts: int, path: Path) -> None:
    """Say what will run and how long it takes; no plan: ARM instructions are counted, and nothing is kept."""
    from harness.bench.instructions import ABOUT_S

    what = [] if plan is None else [f"{len(plan.runnable)} cells"]
    what += [f"{counts} counts of ARM instructions"] if counts else []
    seconds = ABOUT_S * counts + (0.0 if plan is None else plan.expected_s)
    say_cost(f"{', then '.join(what)}, about {duration(seconds)}{'' if plan is None else f'; record: {path}'}")


def _tell(measured: BenchSet, verified: list[MeasurementSet], uncounted: tuple[str, ...], form: str) -> None:
    """Print what was measured."""
    from harness.bench.advice import cautions, recommend, verified_accuracy
    from harness.bench.cascade import cascade_rows, check_cascade, with_ways
    from harness.bench.instructions import disagreements
    from harness.bench.ranking import rank
    from harness.report.tables import (
        cascades_table,
        instructions_table,
        latency_table,
        limits_table,
        requirements_table,
    )

    ranked = rank(measured, accuracy=verified_accuracy(measured, verified))
    if form == "json":
        emit_json(measured)
        return
    title = "Latency (speed-up: against eager float32 on as many threads)"
    render(latency_table(ranked, title=title, with_limits=form != "table"), form)
    if form != "table":
        return
    if (limits := limits_table(ranked)).rows:  # apart, since two columns more would be too many for a terminal
        say()
        show(limits)
    for note in (*cautions(measured, ranked), *uncounted, *disagreements(measured, ranked)):
        say(f"note: {note}")
    if measured.instructions:
        show(instructions_table(with_ways(measured.instructions, measured.cascades, verified)))
    if cascades := cascade_rows(measured, ranked, verified):
        say()
        show(cascades_table(cascades))
        for one in measured.cascades:
            if held := check_cascade(one, cascades, measured.reference):
                say()
                show(requirements_table(held, title=f"Requirements of {one.name}"))
    say(f"\n{recommend(measured, ranked, verified)}")


def _count(
    plan: Plan, wanted: list[tuple[str, str]], uncounted: tuple[str, ...], verified: list[MeasurementSet], form: str
) -> None:
    """Count, and print the table of counts."""
    from harness.bench.cascade import with_ways
    from harness.bench.instructions import count_variants
    from harness.report.tables import instructions_table
    from udacisense.base.progress import progress
    from udacisense.base.records import Outcome

    made = []
    with progress("counting", len(wanted)) as advance:
        for found in count_variants(plan.bundles, wanted):
            made.append(found)
            advance(note=f"{found.bundle}/{found.variant_id}")
    made = with_ways(made, plan.cascades, verified)
    if form == "json":
        emit_json(made)
    else:
        render(instructions_table(made), form)
    if form == "table":
        for note in uncounted:
            say(f"note: {note}")
    if any(found.outcome is not Outcome.PASSED for found in made):
        raise click.exceptions.Exit(1)


def _beside(bundles: tuple[Path, ...]) -> list[Path]:
    """Return the verification records that 'verify' keeps beside the bundles by default."""
    return [path for b in bundles if (path := record_beside(b, "verify")).exists()]


def _say_kept(path: Path) -> None:
    """Say after Ctrl-C what the record holds, and how to go on."""
    from harness.records import BenchSet
    from udacisense.base.records import read_json
    from udacisense.errors import InputError

    try:
        runs = len(read_json(BenchSet, path).runs)
    except InputError:
        runs = 0
    many = "1 run is" if runs == 1 else f"{runs} runs are"
    told = f"{many} kept in {path}; the same command with --resume goes on." if runs else "Nothing was measured yet."
    click.echo(told, err=True)


def _compare(before: Path, after: Path, form: str) -> None:
    from harness.bench.compare_runs import compare_sets
    from harness.records import BenchSet
    from harness.report.tables import comparison_table
    from udacisense.base.records import read_json

    made = compare_sets(read_json(BenchSet, before), read_json(BenchSet, after))
    if form == "json":
        emit_json(made)
        return
    render(comparison_table(made), form)
    tell = say if form == "table" else say_cost  # beside a machine's answer, not in it
    for note in made.notes:
        tell(f"note: {note}")
