"""``udacisense export``: a model in the formats that phones run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from udacisense.cli.options import allow_factory_option, allowing, names_of, search_working_folder
from udacisense.cli.output import dry_run_option, emit_json, json_option, next_command, say, show

if TYPE_CHECKING:
    from exporters.formats.contract import ExportOptions
    from exporters.source import ExportSource


@click.command("export", short_help="Write a model in the formats that phones run, as one bundle.")
@click.argument("model")
@click.option(
    "-f",
    "--format",
    "formats",
    multiple=True,
    help="ptl, torchscript, onnx, coreml, executorch or all.",
    shell_complete=names_of("exporters.formats.table", "FORMATS", "all"),
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    help="fp32, fp16, int8 (all of them), int8-static, … or all.",
    shell_complete=names_of("exporters.formats.contract", "PRECISIONS", "int8", "all"),
)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder of the bundle.")
@click.option("--data", help="Images for calibration and the golden pack: 'cifar100' or a folder.")
@click.option("--input-shape", help="Of a package.module:factory model, e.g. 1,3,224,224.")
@click.option("--init", help="Weights of a package.module:factory model: a .safetensors file.")
@allow_factory_option
@click.option("--engine", "engines", multiple=True, help="Quantised engine of TorchScript int8: fbgemm, x86, qnnpack.")
@click.option("--opset", type=int, help="ONNX opset.")
@click.option("--batch", default="dynamic", show_default=True, help="'dynamic' or a number.")
@click.option("--calibration", type=int, help="How many images calibrate static int8.")
@click.option("--float-blocks", type=int, help="Blocks that static int8 may leave in float32 to keep decisions (3).")
@click.option("--minimum-deployment-target", help="Of Core ML: iOS16, iOS17 or iOS18.")
@click.option("--normalize/--no-normalize", default=False, help="Put mean and std into the graph: feed 0-255 pixels.")
@click.option("--softmax/--no-softmax", default=False, help="Answer probabilities instead of logits.")
@click.option("--zip", "make_zip", is_flag=True, help="Also write OUTPUT.zip.")
@dry_run_option
@json_option
def command(
    *,
    model: str,
    formats: tuple[str, ...],
    precisions: tuple[str, ...],
    output: Path,
    data: str | None,
    input_shape: str | None,
    init: str | None,
    allow_factory: str | None,
    engines: tuple[str, ...],
    opset: int | None,
    batch: str,
    calibration: int | None,
    float_blocks: int | None,
    minimum_deployment_target: str | None,
    normalize: bool,
    softmax: bool,
    make_zip: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Export MODEL to a bundle at OUTPUT.

    MODEL is an artifact's folder, a model that ships (baseline, p1 or tiny), or package.module:factory.

    Without -f and --precision: every format that this machine can write, in fp32 and dynamic int8; '-f all' is every
    format in every precision. One format that fails leaves the others whole: it is listed with its reason, and the
    exit code is 1.
    """
    from exporters.export import export_bundle
    from harness.report.tables import variants_table
    from udacisense.base.records import Outcome
    from udacisense.cli.costs import announce, export_cost
    from udacisense.measure.counts import count_parameters

    options = _options(
        formats=formats,
        precisions=precisions,
        engines=engines,
        opset=opset,
        batch=batch,
        calibration=calibration,
        float_blocks=float_blocks,
        minimum_deployment_target=minimum_deployment_target,
        normalize=normalize,
        softmax=softmax,
    )
    source = _source(model, data=data, input_shape=input_shape, init=init, allow_factory=allow_factory)
    cost = export_cost(options, parameters=count_parameters(source.model), cores=os.cpu_count() or 1)
    announce(cost, output)
    if dry_run:
        return
    manifest = export_bundle(source, output, options, zip=make_zip)
    if as_json:
        emit_json(manifest)
    else:
        show(variants_table(manifest.variants))
        say(f"\nThe bundle is {output}{f', and {output}.zip' if make_zip else ''}.")
        images = ["--data", data] if data else []
        next_command("udacisense", "verify", output, *images, *allowing(source.spec.architecture))
    if any(variant.outcome is Outcome.FAILED for variant in manifest.variants):
        raise click.exceptions.Exit(1)


def choose(given: Sequence[str], allowed: Sequence[str], *, what: str, default: Sequence[str]) -> tuple[str, ...]:
    """Return the chosen names in the table's order; 'all' is all of them, 'int8' every int8 kind.

    Raises:
        InputError: a name is not allowed; says which one may have been meant.
    """
    from udacisense.errors import InputError, did_you_mean

    if not given:
        return tuple(default)
    chosen: set[str] = set()
    for name in given:
        kinds = [row for row in allowed if name in ("all", row) or (name == "int8" and row.startswith("int8"))]
        if not kinds:
            hint = did_you_mean(name, allowed)
            raise InputError(f"There is no {what} '{name}'; allowed are {', '.join(allowed)} and all.{hint}")
        chosen.update(kinds)
    return tuple(row for row in allowed if row in chosen)


def _options(
    *,
    formats: tuple[str, ...],
    precisions: tuple[str, ...],
    batch: str,
    **others: object,
) -> ExportOptions:
    from exporters.formats.contract import PRECISIONS, ExportOptions
    from exporters.formats.table import FORMATS
    from udacisense.errors import InputError

    if batch != "dynamic" and not (batch.isdigit() and int(batch) >= 1):
        raise InputError(f"--batch is {batch!r}; allowed are 'dynamic' and a number from 1.")
    everything = "all" in formats and not precisions
    chosen = choose(formats, list(FORMATS), what="format", default=list(FORMATS))
    wanted = choose(
        ("all",) if everything else precisions, PRECISIONS, what="precision", default=("fp32", "int8-dynamic")
    )
    given = {key: value for key, value in others.items() if value not in (None, ())}
    return ExportOptions(
        formats=chosen,
        precisions=wanted,  # type: ignore[arg-type]  # choose() returns rows of PRECISIONS
        batch=None if batch == "dynamic" else int(batch),
        **given,  # type: ignore[arg-type]  # only what was given: the defaults stand in ExportOptions
    )


def _source(
    model: str, *, data: str | None, input_shape: str | None, init: str | None, allow_factory: str | None
) -> ExportSource:
    from exporters.source import source_from_artifact, source_from_factory
    from udacisense.cli.loading import load_data
    from udacisense.errors import InputError

    folder = Path(model)
    if ":" in model and not folder.exists():
        if input_shape is None:
            raise InputError(f"{model} needs --input-shape, for example --input-shape 1,3,224,224.")
        parts = input_shape.split(",")
        if len(parts) != 4 or not all(part.strip().isdigit() for part in parts):
            raise InputError(f"--input-shape is {input_shape!r}; give four numbers, for example 1,3,224,224.")
        search_working_folder()
        n, c, h, w = (int(part) for part in parts)
        dataset = load_data(data, size_px=h) if data else None
        return source_from_factory(model, (n, c, h, w), dataset=dataset, weights=Path(init) if init else None)
    if input_shape is not None or init is not None:
        raise InputError(
            f"--input-shape and --init are for package.module:factory; {model} has its own shape and weights. "
            "Leave them out."
        )
    from udacisense.base.records import Artifact, read_json
    from udacisense.zoo.table import resolve_artifact

    folder = resolve_artifact(folder)
    dataset = None
    if data:
        dataset = load_data(data, size_px=read_json(Artifact, folder / Artifact.FILE_NAME).signature.size_px)
    return source_from_artifact(folder, dataset=dataset, allow_factory=allow_factory)
