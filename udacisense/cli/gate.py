"""``udacisense gate``: may this bundle ship? The exit code is the answer."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from udacisense.cli.options import BundlePath, OutputPath, record_beside, writable
from udacisense.cli.output import emit_json, json_option, say, show

PathOption = click.Path(path_type=Path)


@click.command("gate", short_help="Hold a bundle against its requirements; the exit code is the answer.")
@click.argument("bundle", type=BundlePath())
@click.option("--verification", type=PathOption, help="Record of 'verify'; default: BUNDLE.verify.json.")
@click.option("--bench", "bench_path", type=PathOption, help="Record of 'bench'; default: BUNDLE.bench.json if there.")
@click.option("--config", "config_path", type=PathOption, help="Requirements, a TOML file; default: built in.")
@click.option("--baseline", "baseline_path", type=PathOption, help="An older record of gate, verify or bench.")
@click.option("-o", "--output", type=OutputPath(), help="Record; default: BUNDLE.gate.json.")
@click.option("--junit", "junit_path", type=OutputPath(), help="Also write JUnit XML.")
@click.option("--markdown", "markdown_path", type=OutputPath(), help="Also write a Markdown summary.")
@json_option
def command(
    *,
    bundle: Path,
    verification: Path | None,
    bench_path: Path | None,
    config_path: Path | None,
    baseline_path: Path | None,
    output: Path | None,
    junit_path: Path | None,
    markdown_path: Path | None,
    as_json: bool,
) -> None:
    """Join consistency, accuracy, size and speed of BUNDLE into one answer: exit code 0, or 1.

    A gain never fails. What was skipped is shown apart and never counts as passed.
    """
    from harness.gate.config import read_config
    from harness.gate.run import exit_code, gate_bundle, read_baseline
    from harness.records import BenchSet, MeasurementSet
    from harness.report.gate import checks_table, junit, markdown
    from udacisense.base.files import write_text
    from udacisense.base.records import read_json, write_record

    records = verification or record_beside(bundle, "verify")
    if not records.exists():
        _refuse_without(records, bundle)
    timed = bench_path or record_beside(bundle, "bench")
    report = gate_bundle(
        bundle,
        verification=read_json(MeasurementSet, records),
        bench=read_json(BenchSet, timed) if bench_path is not None or timed.exists() else None,
        config=read_config(config_path) if config_path else None,
        baseline=read_baseline(baseline_path) if baseline_path else None,
    )
    write_record(output or writable(record_beside(bundle, "gate")), report)
    for path, written in ((junit_path, junit), (markdown_path, markdown)):
        if path is not None:
            write_text(path, written(report))
    code = exit_code(report)
    if as_json:
        emit_json(report)
    else:
        show(checks_table(report.checks))
        say(f"\nGate {'failed' if code else 'passed'}: {bundle}")
    if code:
        raise click.exceptions.Exit(code)


def _refuse_without(records: Path, bundle: Path) -> None:
    """Say that there is no verification; of what is no bundle, that first."""
    from exporters.bundle.open import opened
    from udacisense.base.files import why_absent
    from udacisense.errors import InputError

    with opened(bundle):
        make = f"or make it: {shlex.join(['udacisense', 'verify', str(bundle)])}"
        raise InputError(f"There is no record {records}{why_absent(records)}; give --verification, {make}")
