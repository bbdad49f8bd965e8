"""``udacisense preflight``: will the phone's runtime take this file?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from udacisense.cli.options import OutputPath
from udacisense.cli.output import Cell, emit_json, json_option, next_command, say, table

if TYPE_CHECKING:
    from harness.verify.prove import Proof


@click.command("preflight", short_help="Check a mobile file against the runtime that will load it.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--apk", "is_apk", is_flag=True, help="FILE is an app: are its native libraries fit for 16 KB pages?")
@click.option("--runtime", help="Release of the app's runtime, e.g. 2.1.0 for .ptl; iOS16 for .mlpackage.")
@click.option("--backport", type=OutputPath(), help="Write the .ptl here in bytecode that RUNTIME takes.")
@click.option("--prove", "is_proved", is_flag=True, help="Also run the .ptl in the Android runtimes set up here.")
@click.option("--size", "size_px", type=int, help="With --prove: edge of its images, where the file does not say.")
@json_option
def command(
    *,
    file: Path,
    is_apk: bool,
    runtime: str | None,
    backport: Path | None,
    is_proved: bool,
    size_px: int | None,
    as_json: bool,
) -> None:
    """Check FILE (.ptl, .onnx, .ort, .tflite, .pte, .mlpackage, or an .apk) on a desk for what breaks apps on a phone.

    The answer is yes (exit code 0), or no with the reason and the fix (exit code 1). With --prove the file is also run
    in the phone's own library, and 3 means that it would not load there, 4 that it did not run.
    """
    from exporters.preflight.apk import SUFFIXES, preflight_apk
    from exporters.preflight.run import backport_lite, preflight
    from udacisense.base.records import Outcome
    from udacisense.errors import InputError

    _refuse_bundle(file)
    is_apk = is_apk or file.suffix.lower() in SUFFIXES
    if is_apk and (runtime is not None or backport is not None or is_proved):
        raise InputError("--apk takes neither --runtime nor --backport nor --prove: they are about one model's file.")
    if backport is not None:
        if runtime is None:
            raise InputError("--backport needs --runtime: the release that is to take the file.")
        version = backport_lite(file, backport, runtime=runtime)
        say(f"Written: {backport}, bytecode {version}.")
        next_command("udacisense", "preflight", backport, "--runtime", runtime)
        return
    report = preflight_apk(file) if is_apk else preflight(file, runtime=runtime)
    proofs = _prove(file, size_px) if is_proved else ()
    if as_json:
        emit_json({**asdict(report), "proofs": proofs} if is_proved else report)
    else:
        rows: list[list[Cell]] = [[c.name, str(c.outcome), c.found, c.allowed or None, c.fix] for c in report.checks]
        table(f"{report.file} on {report.runtime}", ("check", "outcome", "found", "allowed", "fix"), rows)
        answer = {"passed": "yes", "failed": "no"}.get(str(report.verdict), "not known")
        say(f"\nWill it load there? {answer}.")
        for warning in report.warnings:
            say(f"\nWarning: {warning}.")
        if is_proved:
            say()
            _print_proofs(proofs)
    code = max([1 if report.verdict is not Outcome.PASSED else 0, *(proof.exit_code for proof in proofs)])
    if code:
        raise click.exceptions.Exit(code)


def _refuse_bundle(file: Path) -> None:
    """Where a bundle's folder was given, say which of its files were meant."""
    from exporters.bundle.manifest import Manifest
    from udacisense.base.records import read_json
    from udacisense.errors import InputError

    if file.suffix == ".mlpackage" or not (file / Manifest.FILE_NAME).is_file():
        return  # a Core ML package has a Manifest.json, which is the same name on a Mac
    variants = read_json(Manifest, file / Manifest.FILE_NAME).variants
    files = [v.path for v in variants if v.path is not None and v.format != "torchscript"]
    found = ", ".join(str(file / name) for name in files[:3])
    raise InputError(f"{file} is a bundle, and preflight takes one file of it: for example {found or 'a .ptl'}.")


def _prove(file: Path, size_px: int | None) -> tuple[Proof, ...]:
    from harness.verify.prove import prove
    from udacisense.base.progress import progress

    with progress("running it in the phone's library", 1):
        return prove(file, size_px=size_px)


def _print_proofs(proofs: tuple[Proof, ...]) -> None:
    rows: list[list[Cell]] = [
        [
            proof.runtime,
            proof.library,
            str(proof.outcome),
            ", ".join(proof.labels) or None,
            None if proof.max_abs is None else f"{proof.max_abs:.2e}",
            proof.flips,
            proof.reason,
        ]
        for proof in proofs
    ]
    columns = ("runtime", "library", "outcome", "answers", "max |Δ| to this host", "flips", "why")
    table(f"Run on {max(proof.images for proof in proofs)} drawn images", columns, rows)
