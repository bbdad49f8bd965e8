"""``udacisense verify``: is this file safe to put into the app?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from udacisense.cli.options import (
    BundlePath,
    OutputPath,
    allow_factory_option,
    allowing,
    names_of,
    record_beside,
    variant_option,
    variants_of,
    writable,
)
from udacisense.cli.output import (
    Cell,
    Choice,
    announce,
    dry_run_option,
    emit_json,
    json_option,
    next_command,
    say,
    show,
    table,
)

if TYPE_CHECKING:
    from exporters.bundle.open import Bundle
    from harness.records import MeasurementSet
    from harness.verify.locate.job import Found
    from harness.verify.options import VerifyOptions


@click.command("verify", short_help="Prove that every exported file answers as its source does.")
@click.argument("bundle", type=BundlePath())
@click.option("--data", help="Verify on its test images: 'cifar100' or a folder. Default: the bundle's golden pack.")
@variant_option("bundle")
@click.option(
    "--runner",
    "runners",
    multiple=True,
    help="Runner; may be repeated. Default: all that open the format.",
    shell_complete=names_of("harness.runners.table", "RUNNERS"),
)
@click.option(
    "--unknown",
    "unknown_folder",
    type=click.Path(path_type=Path),
    help="Folder of photos of other things: how many are taken for a class?",
)
@click.option("--shift", "is_shifted", is_flag=True, help="Also feed the photos blurred, noisy, dark, turned, ...")
@click.option("--rtol", type=float, help="Relative tolerance, instead of each precision's own.")
@click.option("--atol", type=float, help="Absolute tolerance, instead of each precision's own.")
@click.option("--limits", "limits_path", type=click.Path(path_type=Path), help="TOML of other limits by precision.")
@click.option("--threads", default=1, show_default=True, help="Threads of each process.")
@click.option(
    "--arm64-images",
    "emulated_images",
    type=Choice(["golden", "all"]),
    default="golden",
    show_default=True,
    help="What android-arm64 is fed; under qemu all test images take minutes.",
)
@click.option(
    "--locate",
    "located",
    metavar="VARIANT",
    help="Find the first step and layer at which VARIANT broke.",
    shell_complete=variants_of("bundle"),
)
@click.option("--reproducer", type=OutputPath(is_folder=True), help="With --locate: new folder that reproduces it.")
@allow_factory_option
@click.option("-o", "--output", type=OutputPath(), help="Record; default: BUNDLE.verify.json.")
@dry_run_option
@json_option
def command(
    *,
    bundle: Path,
    data: str | None,
    unknown_folder: Path | None,
    limits_path: Path | None,
    located: str | None,
    reproducer: Path | None,
    output: Path | None,
    dry_run: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Hold every variant of BUNDLE against the eager model, each in a process of its own.

    Numbers are held against the eager source of the same precision, decisions against the float32 master. Ends with 1
    when a variant fails, 3 when one would not load, 4 when one crashed.
    """
    from exporters.bundle.open import opened
    from harness.verify.beyond.inputs import read_unknown
    from harness.verify.limits import LIMITS, read_limits
    from harness.verify.options import VerifyOptions
    from harness.verify.run import estimate_verification
    from udacisense.cli.loading import load_data

    with opened(bundle) as source:
        rows = (*source.manifest.variants, *source.manifest.ways())
        options = VerifyOptions(
            dataset=load_data(data, size_px=source.manifest.signature.size_px) if data else None,
            unknown=read_unknown(unknown_folder, source.manifest.signature.size_px) if unknown_folder else None,
            limits=read_limits(limits_path, rows) if limits_path else LIMITS,
            **given,
        )
        if located is not None:
            _locate(source, located, options, reproducer, as_json=as_json)
        path = output or writable(record_beside(bundle, "verify"))
        announce(estimate_verification(source, options), path)
        if not dry_run:
            _verify(source, options, path, images=["--data", data] if data else [], as_json=as_json)


def _locate(
    source: Bundle, variant_id: str, options: VerifyOptions, reproducer: Path | None, *, as_json: bool
) -> NoReturn:
    from harness.verify.locate.run import locate

    found = locate(*source.owner(variant_id), options, out=reproducer)
    if as_json:
        emit_json(found)
    else:
        _print_ladder(found)
    raise click.exceptions.Exit(0 if found.rung is None else 1)


def _verify(source: Bundle, options: VerifyOptions, path: Path, *, images: list[str], as_json: bool) -> None:
    from harness.report.tables import beyond_table, certainty_table, verification_table
    from harness.verify.run import exit_code, verify_bundle
    from udacisense.base.files import locked
    from udacisense.base.progress import progress
    from udacisense.base.records import write_record

    with locked(path), progress("verifying", 1.0) as advance:
        measured = verify_bundle(source, options, on_progress=lambda total, name: advance(1 / total, note=name))
        write_record(path, measured)
    if as_json:
        emit_json(measured)
    else:
        say(f"{measured.bundle} on {measured.inputs}:\n")
        show(verification_table(measured))
        for made in (certainty_table(measured), beyond_table(measured)):
            if made is not None:
                say()
                show(made)
        say(f"\nKept in {path}.")
        _say_next(source, measured, images, allowing(options.allow_factory))
    if code := exit_code(measured):
        raise click.exceptions.Exit(code)


def _say_next(source: Bundle, measured: MeasurementSet, images: list[str], allowed: list[str]) -> None:
    """Lead on to the times; where a file failed, to the layer at which it broke."""
    from udacisense.base.records import Outcome

    found = {outcome: [m.spec for m in measured.measurements if m.outcome is outcome] for outcome in Outcome}
    known = {variant.id for variant in source.manifest.variants}  # a cascade's ways have no layers of their own
    if broken := [spec for spec in found[Outcome.FAILED] if spec.variant_id in known]:
        place = ("--locate", broken[0].variant_id, "--runner", broken[0].runner)
        next_command("udacisense", "verify", source.given, *place, *images, *allowed)
    elif found[Outcome.PASSED] and not found[Outcome.FAILED]:
        next_command("udacisense", "bench", source.given, *allowed)


def _print_ladder(found: Found) -> None:
    rows: list[list[Cell]] = [
        [
            rung.name,
            str(rung.outcome),
            None if rung.max_abs is None else f"{rung.max_abs:.2e}",
            None if rung.relative is None else f"{rung.relative:.2e}",
            rung.reason,
        ]
        for rung in found.rungs
    ]
    table(f"{found.variant_id} on {found.runner}", ("rung", "outcome", "max |Δ|", "relative", "why"), rows)
    say(f"\n{found.reason}")
