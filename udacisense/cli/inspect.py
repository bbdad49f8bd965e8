"""``udacisense inspect``: what is in a bundle, and whether every byte is what its manifest says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from udacisense.cli.options import BundlePath, allowing_bundle
from udacisense.cli.output import emit_json, json_option, next_command, say, show

if TYPE_CHECKING:
    from exporters.bundle.manifest import Manifest


@click.command("inspect", short_help="Show a bundle and check every byte of it.")
@click.argument("bundle", type=BundlePath())
@json_option
def command(*, bundle: Path, as_json: bool) -> None:
    """Show the variants of BUNDLE (a folder or a .zip) and check every file against its sha256.

    Ends with exit code 1 and names the file when a byte was changed, is missing or is extra.
    """
    from exporters.bundle.open import check_files, opened

    with opened(bundle) as source:
        problems = check_files(source)
        if as_json:
            emit_json(source.manifest)
        else:
            _print(source.manifest)
        for problem in problems:
            click.echo(f"error: {problem}", err=True)
        if problems:
            raise click.exceptions.Exit(1)
        if not as_json:
            say(f"\nEvery one of the {len(source.manifest.files)} files is what the manifest says.")
            next_command("udacisense", "verify", bundle, *allowing_bundle(source))


def _print(manifest: Manifest) -> None:
    from harness.report.tables import variants_table
    from udacisense.base.records import Outcome

    say(f"{manifest.name}, written {manifest.created_utc}, {len(manifest.files)} files")
    signature = manifest.signature
    say(f"input {signature.input_name} {signature.input_shape} → {signature.output_name} {signature.output_shape}")
    say(f"labels: {', '.join(signature.labels[:12])}{' …' if len(signature.labels) > 12 else ''}")
    for member in manifest.members or ():
        rule = "answers what is left" if member.threshold is None else f"answers from a margin of {member.threshold:g}"
        fit = member.confidence
        say(f"{member.name} {rule}, at temperature {fit.temperature:.3g}; none of these below {fit.unsure_below:.3g}")
    say()
    show(variants_table(manifest))
    varying = [v.id for v in manifest.variants if v.outcome is Outcome.PASSED and not v.deterministic]
    if varying:
        say(
            f"not the same bytes from export to export: {', '.join(varying)} (onnxruntime writes parts of a file in"
            " any order; its answers are the same)"
        )
