"""``udacisense search``: the network of a family that learns most within limits."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from udacisense.cli.options import OutputPath, allow_factory_option, names_of, seeds_of
from udacisense.cli.output import announce, dry_run_option, emit_json, json_option, next_command, say, show
from udacisense.cli.training_options import compute_options, place_options, supervision_options

if TYPE_CHECKING:
    from udacisense.pipeline.search.record import SearchRecord
    from udacisense.training import Compute, Supervision

_UNITS = {"K": 10**3, "M": 10**6, "G": 10**9}


class Amount(click.ParamType[Any]):
    """A whole number, as 42000, 42K or 0.17M."""

    name = "N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number."""
        text = str(value).strip().upper()
        try:
            found = round(float(text[:-1]) * _UNITS[text[-1]]) if text[-1:] in _UNITS else int(text)
        except (ValueError, OverflowError):
            found = 0
        if not 1 <= found < 2**63:
            self.fail(f"{value!r} is no amount; write 42000, 42K or 0.17M.", param, ctx)
        return found


@click.command("search", short_help="Find the network that learns most within limits.")
@click.option("--baseline", required=True, type=click.Path(path_type=Path), help="Artifact folder that 'train' wrote.")
@click.option("--data", required=True, help="'cifar100' (downloaded), or a folder with {train,test}/<class>/*.")
@click.option(
    "--family",
    default="blocks",
    show_default=True,
    help="blocks (depthwise-separable and inverted residuals), or mobilenet_v3_small.",
    shell_complete=names_of("udacisense.pipeline.search.space", "FAMILIES"),
)
@click.option("--max-parameters", "parameters", type=Amount(), help="Of a network: 42000, or 42K.")
@click.option("--max-bytes", "file_bytes", type=Amount(), help="Of its float32 TorchScript file: 0.17M.")
@click.option("--max-arm-instructions", "arm_instructions", type=Amount(), help="Of a call, estimated: 16M.")
@click.option("--trials", default=60, show_default=True, help="Networks that are trained for a short time.")
@click.option("--finalists", default=3, show_default=True, help="Of them that are trained at full length.")
@click.option("--epochs", default=9, show_default=True, help="Of a short training.")
@click.option("--final-epochs", type=int, help="Of a finalist's; the pipeline's by default.")
@click.option("--seeds", default="0", show_default=True, callback=seeds_of, help="Of the finalists: 0,1,2.")
@click.option("--seed", default=0, show_default=True, help="Of the choices and of the short trainings.")
@click.option("--batch-size", default=64, show_default=True)
@place_options
@supervision_options
@compute_options
@allow_factory_option
@click.option("-o", "--output", required=True, type=OutputPath(is_folder=True), help="Folder of the run.")
@dry_run_option
@json_option
def command(
    *,
    baseline: Path,
    data: str,
    parameters: int | None,
    file_bytes: int | None,
    arm_instructions: int | None,
    output: Path,
    supervision: Supervision,
    compute: Compute,
    allow_factory: str | None,
    dry_run: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Train many networks for a short time, and the best few at full length.

    A network that breaks a limit is not trained. The same command with the same --study, on this machine or another,
    joins in; after Ctrl-C it goes on. OUTPUT/search.json has everything; 'report' draws it.
    """
    from dataclasses import replace

    from udacisense.cli.loading import load_data
    from udacisense.models.artifact import load_artifact
    from udacisense.pipeline.search.cost import Limits
    from udacisense.pipeline.search.run import SearchOptions, check_search, estimate_search, run_search
    from udacisense.pipeline.start import check_start

    options = SearchOptions(
        limits=Limits(parameters=parameters, file_bytes=file_bytes, arm_instructions=arm_instructions),
        supervision=replace(supervision, allow_factory=allow_factory),
        allow_factory=allow_factory,
        **asked,
    )
    kept, model = load_artifact(baseline, allow_factory=allow_factory)
    dataset = load_data(data, size_px=kept.signature.size_px)
    check_start(kept, baseline, dataset, batch_size=options.batch_size, seeds=(options.seed, *options.seeds))
    check_search(options, dataset)
    announce(estimate_search(options, model, dataset), output)
    if dry_run:
        return
    count = partial(_count, allow_factory=allow_factory)
    found = run_search(baseline, dataset, output_dir=output, options=options, compute=compute, count=count)
    _keep(found, output, is_shown=not as_json)
    if as_json:
        emit_json(found)
    else:
        next_command("udacisense", *_compress(found, baseline, data), "-o", output / "best")


def _keep(found: SearchRecord, output: Path, *, is_shown: bool) -> None:
    """Write the tables of a search, and show them."""
    from harness.report.chapters.search import finalists_table, search_markdown, tried_table
    from udacisense.base.files import write_text

    write_text(output / "search.md", search_markdown(found))
    if not is_shown:
        return
    for table in (tried_table(found), finalists_table(found)):
        show(table)
        say()
    say(f"Written: {output}/search.json and search.md.")


def _compress(found: SearchRecord, baseline: Path, data: str) -> list[object]:
    """Return the command that makes the best network again, but for its supervision."""
    from udacisense.pipeline.search.space import student_options

    assert found.best is not None, "a search without finalists has raised"
    network = student_options(found.best.model)
    return ["compress", "--pipeline", found.pipeline, "--baseline", baseline, "--data", data, *network]


def _count(folder: Path, allow_factory: str | None) -> tuple[float | None, str | None]:
    """Export an artifact as plain .ptl and count the ARM instructions of a call; None and why where it cannot be."""
    import numpy as np

    from exporters.export import export_bundle
    from exporters.formats.contract import ExportOptions
    from exporters.source import source_from_artifact
    from harness.runtime.count import COUNTERS, cannot_count, count
    from udacisense.errors import UdacisenseError

    if (reason := cannot_count(COUNTERS["ptl"])) is not None:
        return None, reason
    source = source_from_artifact(folder, None, allow_factory=allow_factory)
    with tempfile.TemporaryDirectory(prefix="udacisense-search-") as scratch:
        place = Path(scratch) / "bundle"
        try:
            export_bundle(source, place, ExportOptions(formats=("ptl",), precisions=("fp32",)))
            image = np.zeros((1, *source.signature.input_shape[1:]), np.float32)
            return count(place / "model-ptl-fp32.ptl", image).instructions_per_call, None
        except UdacisenseError as exc:
            return None, str(exc)
