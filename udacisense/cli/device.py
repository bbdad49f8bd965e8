"""``udacisense device``: phones on the desk, through adb and the demo app."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from udacisense.cli.options import BundlePath, OutputPath, allow_factory_option, allowing_bundle, variant_option
from udacisense.cli.output import Cell, duration, emit_json, json_option, next_command, say, show, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exporters.bundle.open import Bundle
    from harness.device.orders import Order
    from harness.device.phone import Phone
    from harness.device.phones import Answer
    from harness.records import BenchSet, MeasurementSet

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

PathArgument = click.Path(path_type=Path)
_records_option = click.option(
    "-o", "--output", type=OutputPath(is_folder=True), help="Folder for the records; default: beside BUNDLE."
)
_SELFTEST_S = 300.0
_BENCH_S = 3600.0


def _phones(function: F) -> F:
    """Add the options that say which phones are meant."""
    function = click.option("--all", "every", is_flag=True, help="Every phone that is connected, at once.")(function)
    return click.option(
        "--serial",
        "serials",
        multiple=True,
        envvar="ANDROID_SERIAL",
        help="Phone, as 'device list' shows it; may be repeated. Default: the only one.",
    )(function)


@click.group("device", short_help="Test and measure on phones, through the demo app.")
def command() -> None:
    """Push a bundle to phones over adb, let the demo app prove and time it there, and take its records home.

    They are records like those of 'verify' and 'bench': 'report', 'gate' and 'bench --compare' take them.
    """


@command.command("list")
@json_option
def list_command(*, as_json: bool) -> None:
    """Show the phones that adb sees, and what is missing on those that are not ready."""
    from harness.device.phones import connect, list_phones
    from udacisense.base.display import megabytes

    found = list_phones(connect())
    if as_json:
        emit_json(found)
        return
    if not found:
        say("No phone is connected: plug one in and switch on USB debugging in its developer options.")
        return
    rows: list[list[Cell]] = [
        [
            state.serial,
            "ready" if state.advice is None else state.state,
            state.model,
            None if state.android is None else f"{state.android} (API {state.api})",
            state.abi,
            megabytes(state.free_bytes),
            {True: "installed", False: "not installed", None: None}[state.has_app],
        ]
        for state in found
    ]
    table("Phones", ("serial", "state", "model", "Android", "ABI", "free", "app"), rows)
    for state in found:
        if state.advice is not None:
            say(f"{state.serial}: {state.advice}.")


@command.command("install")
@click.argument("apk", type=PathArgument)
@_phones
def install_command(*, apk: Path, **which: Any) -> None:
    """Install the demo app APK, in place of an older build of it."""
    from harness.device.install import check_apk, install_apk
    from harness.device.phones import choose, connect, on_each
    from udacisense.base.progress import progress

    check_apk(apk)
    phones = choose(connect(), **which)
    with progress("installing", len(phones) * apk.stat().st_size) as advance:
        answers = on_each(phones, lambda phone, _: install_apk(phone, apk, on_bytes=advance))
    for answer in answers:
        if answer.error is None:
            say(f"{answer.phone}: {apk.name} is installed.")
    _end(answers)
    next_command("udacisense", "device", "push", "BUNDLE")


_rollout_option = click.option(
    "--rollout",
    "shares",
    multiple=True,
    metavar="ID=PERCENT",
    help="Share of the installations that runs this file, or this way to run the cascade; may be repeated.",
)


@command.command("push")
@click.argument("bundle", type=BundlePath())
@_rollout_option
@_phones
@json_option
def push_command(*, bundle: Path, shares: tuple[str, ...], as_json: bool, **which: Any) -> None:
    """Send BUNDLE to the app, whole and compared by SHA-256 on the phone, in place of the one it had."""
    from harness.device.phones import choose, connect, on_each
    from harness.device.push import bundle_bytes, push_bundle
    from harness.device.rollout import rollout_file
    from udacisense.base.display import megabytes
    from udacisense.base.progress import progress

    with _checked(bundle) as opened:
        beside = rollout_file(shares, opened)
        phones = choose(connect(), **which)
        with progress("sending", len(phones) * bundle_bytes(opened)) as advance:
            send = partial(push_bundle, bundle=opened, on_bytes=advance, beside=beside)
            answers = on_each(phones, lambda phone, stop: send(phone, stop=stop))
    if as_json:
        emit_json([answer.value for answer in answers if answer.value is not None])
    for answer in answers:
        if answer.value is not None and not as_json:
            made = answer.value
            say(
                f"{answer.phone}: {made.bundle} is there, {made.files} files, {megabytes(made.n_bytes)} in "
                f"{duration(made.duration_s)}, every SHA-256 equal."
            )
    _end(answers)
    if not as_json:
        next_command("udacisense", "device", "selftest", bundle)


@command.command("selftest")
@click.argument("bundle", type=BundlePath())
@variant_option("bundle")
@click.option("--timeout", "timeout_s", default=_SELFTEST_S, show_default=True, help="Longest wait, in seconds.")
@_records_option
@_phones
@json_option
def selftest_command(
    *,
    bundle: Path,
    variants: tuple[str, ...],
    timeout_s: float,
    output: Path | None,
    as_json: bool,
    **which: Any,
) -> None:
    """Replay the golden pack of BUNDLE in the app: pixels, tensor, logits, label. Exit code 1 where a variant fails."""
    from harness.device.orders import Order
    from harness.report.tables import verification_table
    from harness.verify.run import exit_code
    from udacisense.base.records import write_record

    allowed: list[str] = []

    def keep(phone: Phone, made: MeasurementSet, opened: Bundle) -> tuple[Path, MeasurementSet]:
        path = _place(bundle, output, phone.label, "verify")
        write_record(path, made)
        allowed[:] = allowing_bundle(opened)
        return path, made

    order = Order(command="selftest", variants=variants, timeout_s=timeout_s)
    answers = _ordered(bundle, order, keep, which)
    made = [(answer.phone, *answer.value) for answer in answers if answer.value is not None]
    if as_json:
        _emit([record for _, _, record in made])
    else:
        for phone, path, record in made:
            show(verification_table(record, title=f"{record.bundle} on {phone}, {record.inputs}"))
            say(f"\nKept in {path}.\n")
    _end(answers, *(exit_code(record) for _, _, record in made))
    if not as_json:
        next_command("udacisense", "device", "bench", bundle, *allowed)


@command.command("bench")
@click.argument("bundle", type=BundlePath())
@variant_option("bundle")
@click.option("--threads", default="1,2,4", show_default=True, help="Thread counts.")
@click.option("--timeout", "timeout_s", default=_BENCH_S, show_default=True, help="Longest wait, in seconds.")
@allow_factory_option
@_records_option
@_phones
@json_option
def bench_command(
    *,
    bundle: Path,
    variants: tuple[str, ...],
    threads: str,
    timeout_s: float,
    allow_factory: str | None,
    output: Path | None,
    as_json: bool,
    **which: Any,
) -> None:
    """Time the variants of BUNDLE in the app: variant × threads, in rounds; heat and battery are noted.

    What failed 'verify' or 'device selftest' is not recommended: their records beside BUNDLE and in OUTPUT are read.
    """
    from harness.bench.advice import recommend
    from harness.bench.ranking import rank
    from harness.device.orders import Order
    from harness.device.results import read_verifications, to_bench_set
    from harness.report.tables import latency_table
    from udacisense.base.records import Outcome, write_record
    from udacisense.cli.options import thread_counts

    order = Order(command="bench", variants=variants, threads=thread_counts(threads, most=64), timeout_s=timeout_s)
    verified = read_verifications((bundle.parent, output or bundle.parent), _stem(bundle))

    def keep(phone: Phone, made: MeasurementSet, opened: Bundle) -> tuple[Path, BenchSet]:
        path = _place(bundle, output, phone.label, "bench")
        measured = to_bench_set(made, opened, verifications=verified, allow_factory=allow_factory)
        write_record(path, measured)
        return path, measured

    answers = _ordered(bundle, order, keep, which)
    made = [(answer.phone, *answer.value) for answer in answers if answer.value is not None]
    codes = []
    for phone, path, measured in made:
        ranked = rank(measured)
        failed = any(row.outcome is Outcome.FAILED for row in ranked)
        codes.append(4 if failed else 0 if any(row.median_ms is not None for row in ranked) else 1)
        if not as_json:
            show(latency_table(ranked, title=f"Latency on {phone}"))
            say(f"\n{recommend(measured, ranked, verified)}\n\nKept in {path}.\n")
    if as_json:
        _emit([measured for _, _, measured in made])
    _end(answers, *codes)
    if not as_json:
        next_command("udacisense", "report", bundle.parent, "-o", "report.md")


@command.command("pull")
@click.argument("bundle", type=BundlePath())
@allow_factory_option
@_records_option
@_phones
@json_option
def pull_command(
    *,
    bundle: Path,
    allow_factory: str | None,
    output: Path | None,
    as_json: bool,
    **which: Any,
) -> None:
    """Take home every result of BUNDLE that lies on the phone, also those made by hand in the app."""
    from harness.device.phones import choose, connect, on_each
    from harness.device.pull import pull_results

    with _checked(bundle) as opened:
        phones = choose(connect(), **which)
        answers = on_each(
            phones,
            lambda phone, stop: pull_results(
                phone,
                opened,
                place=lambda name, kind: _place(bundle, output, f"{phone.label}.{name}", kind),
                stop=stop,
                allow_factory=allow_factory,
            ),
        )
    entries = [(answer.phone, entry) for answer in answers for entry in answer.value or ()]
    if as_json:
        emit_json([entry for _, entry in entries])
    else:
        rows: list[list[Cell]] = [
            [str(phone), entry.file, str(entry.outcome), entry.kept or entry.reason] for phone, entry in entries
        ]
        table("Results", ("phone", "file", "outcome", "kept as, or why not"), rows)
        _show_use(entry.kept for _, entry in entries)
    _end(answers, *(entry.exit_code for _, entry in entries))


def _show_use(kept: Iterable[str | None]) -> None:
    """Tell who answered the photos of the app."""
    from harness.device.results import USE_COUNTS
    from harness.records import MeasurementSet
    from udacisense.base.records import read_json

    sets = [read_json(MeasurementSet, Path(path)) for path in kept if path and path.endswith(".use.json")]
    keys = ("choice", "member", *reversed(USE_COUNTS))
    rows: list[list[Cell]] = [
        [made.host.cpu, *(str(m.actual.get(key)) for key in keys), f"{m.timing.median_ms:.3g}"]
        for made in sets
        for m in made.measurements
        if m.timing
    ]
    if rows:
        table("In the app", ("phone", "chosen", "model", "asked", "answered", "none of these", "median ms"), rows)


@command.command("stage")
@click.argument("bundle", type=BundlePath())
@click.option("--project", type=PathArgument, help="Folder of android_demo; default: the one here or above.")
@_rollout_option
def stage_command(*, bundle: Path, project: Path | None, shares: tuple[str, ...]) -> None:
    """Copy BUNDLE into the sources of the app, so that the next build carries it."""
    from exporters.bundle.open import opened as open_it
    from harness.device.rollout import rollout_file
    from harness.device.stage import find_project, stage_bundle
    from udacisense.base.display import megabytes
    from udacisense.base.files import size_bytes

    with open_it(bundle) as source:
        target = stage_bundle(source, project or find_project(Path.cwd()), beside=rollout_file(shares, source))
    say(f"{source.manifest.name} is in {target}, {megabytes(size_bytes(target))}.")
    next_command("make", "android-apk")


@contextmanager
def _checked(path: Path) -> Iterator[Bundle]:
    from exporters.bundle.open import opened
    from harness.device.push import check_for_app

    with opened(path) as bundle:
        check_for_app(bundle)
        yield bundle


def _ordered(
    path: Path, order: Order, keep: Callable[[Phone, MeasurementSet, Bundle], T], which: Mapping[str, Any]
) -> list[Answer[T]]:
    """Place the order on every phone that is meant, and keep each answer as soon as it is there."""
    from harness.device.orders import measure
    from harness.device.phones import choose, connect, on_each
    from udacisense.base.progress import progress

    with _checked(path) as bundle:
        for name in order.variants:
            bundle.variant(name)
        phones = choose(connect(), **which)
        with progress(order.command, len(phones) * order.timeout_s) as advance:

            def work(phone: Phone, stop: threading.Event) -> T:
                waits = partial(advance, note="of the longest wait")
                return keep(phone, measure(phone, bundle, order, stop=stop, on_wait=waits), bundle)

            return on_each(phones, work)


def _place(bundle: Path, output: Path | None, label: str, kind: str) -> Path:
    return (output or bundle.parent) / f"{_stem(bundle)}.{label}.{kind}.json"


def _stem(bundle: Path) -> str:
    return bundle.name.removesuffix(".zip")


def _emit(records: Sequence[object]) -> None:
    """One phone's record as it is; those of several phones as a list."""
    emit_json(records[0] if len(records) == 1 else records)


def _end(answers: Sequence[Answer[Any]], *codes: int) -> None:
    """Say what failed on which phone; end with the worst exit code where one is not 0."""
    from udacisense.cli.main import describe

    errors = [answer.error for answer in answers if answer.error is not None]
    if len(answers) == 1 and errors:
        raise errors[0]
    for error in errors:
        click.echo(f"error: {describe(error) if isinstance(error, OSError) else error}", err=True)
    failed = [2 if isinstance(error, OSError) else error.exit_code for error in errors]
    if code := max((*codes, *failed), default=0):
        raise click.exceptions.Exit(code)
