"""``udacisense export``: a model in the formats that phones run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from udacisense.cli.options import (
    OutputPath,
    allow_factory_option,
    allowing,
    model_options,
    names_of,
    search_working_folder,
)
from udacisense.cli.output import Choice, announce, dry_run_option, emit_json, json_option, next_command, say, show

if TYPE_CHECKING:
    from exporters.bundle.manifest import Manifest
    from exporters.cascade import CascadeSource
    from exporters.formats.contract import ExportOptions
    from exporters.source import ExportSource
    from udacisense.base.records import Scalar
    from udacisense.measure.estimate import Estimate

_MOST_TIMES = 20.0  # that a variant may take what the whole export was estimated at: machines are busy


@click.command("export", short_help="Write a model in the formats that phones run, as one bundle.")
@click.argument("model")
@click.option(
    "-f",
    "--format",
    "formats",
    multiple=True,
    help="ptl, torchscript, onnx, coreml, executorch, tflite or all.",
    shell_complete=names_of("exporters.formats.table", "FORMATS", "all"),
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    help="fp32, fp16, int8 (all of them), int8-static, … or all.",
    shell_complete=names_of("exporters.formats.contract", "PRECISIONS", "int8", "all"),
)
@click.option("-o", "--output", required=True, type=OutputPath(is_folder=True), help="Folder of the bundle.")
@click.option("--data", help="Images for calibration and the golden pack: 'cifar100' or a folder.")
@click.option("--input-shape", help="Of a model that is named, e.g. 1,3,224,224; a library's network has its own.")
@click.option("--init", help="Weights of a model that is named: a .safetensors or .pth file, or 'pretrained'.")
@model_options()
@allow_factory_option
@click.option("--engine", "engines", multiple=True, help="Quantised engine of TorchScript int8: fbgemm, x86, qnnpack.")
@click.option("--opset", type=int, help="ONNX opset.")
@click.option("--batch", default="dynamic", show_default=True, help="'dynamic' or a number.")
@click.option("--calibration", type=int, help="How many images calibrate static int8.")
@click.option("--float-blocks", type=int, help="Blocks that static int8 may leave in float32 to keep decisions (3).")
@click.option("--int8-method", type=Choice(["fitted", "histogram"]), help="How static int8 is calibrated (fitted).")
@click.option("--minimum-deployment-target", help="Of Core ML: iOS16, iOS17 or iOS18.")
@click.option("--normalize/--no-normalize", default=False, help="Put mean and std into the graph: feed 0-255 pixels.")
@click.option("--softmax/--no-softmax", default=False, help="Answer probabilities instead of logits.")
@click.option("--zip", "make_zip", is_flag=True, help="Also write OUTPUT.zip.")
@dry_run_option
@json_option
def command(
    *,
    model: str,
    output: Path,
    data: str | None,
    input_shape: str | None,
    init: str | None,
    model_options: dict[str, Scalar],
    allow_factory: str | None,
    make_zip: bool,
    dry_run: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Export MODEL to a bundle at OUTPUT.

    MODEL is an artifact's or a cascade's folder, what ships (baseline, p1, tiny or cascade), torchvision/NAME,
    timm/NAME, or package.module:factory.

    Without -f and --precision: every format that this machine can write, in fp32 and dynamic int8; '-f all' is every
    format in every precision. One format that fails leaves the others whole: it is listed with its reason, and the
    exit code is 1.
    """
    from exporters.cascade import CascadeSource, export_cascade
    from exporters.export import export_bundle
    from udacisense.base.records import Outcome

    options = _options(**asked)
    source = _source(
        model, data, input_shape=input_shape, init=init, options=model_options, allow_factory=allow_factory
    )
    members = source.sources if isinstance(source, CascadeSource) else (source,)
    announce(cost := _estimate(members, options), output)
    if dry_run:
        return
    options = replace(options, timeout_s=max(options.timeout_s, _MOST_TIMES * cost.seconds))
    if isinstance(source, CascadeSource):
        manifest = export_cascade(source, output, options, zip=make_zip)
    else:
        manifest = export_bundle(source, output, options, zip=make_zip)
    if as_json:
        emit_json(manifest)
    else:
        _show(manifest, f"{output}{f', and {output}.zip' if make_zip else ''}")
        if any(variant.outcome is Outcome.PASSED for variant in manifest.variants):
            images = ["--data", data] if data else []
            next_command("udacisense", "verify", output, *images, *allowing(members[-1].spec.architecture))
    if any(variant.outcome is Outcome.FAILED for variant in manifest.variants):
        raise click.exceptions.Exit(1)


def _source(
    model: str,
    data: str | None,
    *,
    input_shape: str | None,
    init: str | None,
    options: dict[str, Scalar],
    allow_factory: str | None,
) -> ExportSource | CascadeSource:
    if is_named(model):
        return _named_source(model, data, input_shape, init or "none", options)
    _refuse_settings_of_named_models(model, input_shape, init, options)
    return _kept_source(Path(model), data, allow_factory)


def _show(manifest: Manifest, places: str) -> None:
    from harness.report.tables import variants_table

    show(variants_table(manifest))
    say(f"\nThe bundle is {places}.")


def _estimate(members: Sequence[ExportSource], options: ExportOptions) -> Estimate:
    from exporters.export import estimate_export
    from udacisense.measure.counts import count_parameters
    from udacisense.measure.estimate import seconds_an_image, total

    costs = [
        estimate_export(
            options,
            parameters=count_parameters(one.model),
            cores=os.cpu_count() or 1,
            image_s=seconds_an_image(one.model, one.signature.input_shape),
        )
        for one in members
    ]
    return costs[0] if len(costs) == 1 else total(f"{len(costs)} members", costs)


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


def is_named(model: str) -> bool:
    """Tell whether a model is ``torchvision/NAME``, ``timm/NAME`` or ``package.module:factory``, and no folder."""
    from udacisense.models.libraries import is_library

    return (":" in model or is_library(model)) and not Path(model).exists()


def _refuse_settings_of_named_models(model: str, *given: object) -> None:
    from udacisense.errors import InputError
    from udacisense.zoo.table import resolve_artifact

    if not resolve_artifact(Path(model)).exists():
        raise InputError(_no_model(model))
    if any(value not in (None, {}) for value in given):
        raise InputError(
            f"--input-shape, --init and --option are for a model that is named; {model} has its own shape and weights. "
            "Leave them out."
        )


def _no_model(name: str) -> str:
    from udacisense.errors import did_you_mean
    from udacisense.zoo.table import ZOO

    module, _, factory = name.rpartition(".")
    likely = f", such as {module}:{'build' if factory == 'py' else factory}" if module and "/" not in name else ""
    return (
        f"There is no folder {name}; give an artifact's folder, a model that ships ({', '.join(ZOO)}), "
        f"torchvision/NAME, timm/NAME, or code as package.module:factory{likely}.{did_you_mean(name, ZOO)}"
    )


def _named_source(
    model: str, data: str | None, input_shape: str | None, init: str, options: dict[str, Scalar]
) -> ExportSource:
    from exporters.source import source_from_factory
    from udacisense.cli.loading import load_data, say_interpolation
    from udacisense.errors import InputError
    from udacisense.models.build import preset

    if ":" in model:
        if input_shape is None:
            raise InputError(f"{model} needs --input-shape, for example --input-shape 1,3,224,224.")
        search_working_folder()
    shape = _shape(input_shape) if input_shape is not None else None
    spec = preset(model, options=options)
    say_interpolation(spec, init)
    own_px = spec.options.get("resolution_px")
    dataset = load_data(data, size_px=shape and shape[2], resolution_px=own_px) if data else None
    if shape is None:
        edge = dataset.size_px if dataset is not None else int(own_px or 0)
        shape = (1, 3, edge, edge)
    return source_from_factory(model, shape, dataset=dataset, init=init, options=options)


def _shape(text: str) -> tuple[int, int, int, int]:
    from udacisense.errors import InputError

    parts = text.split(",")
    if len(parts) != 4 or not all(part.strip().isdecimal() for part in parts):
        raise InputError(f"--input-shape is {text!r}; give four numbers, for example 1,3,224,224.")
    n, c, h, w = (int(part) for part in parts)
    return n, c, h, w


def _kept_source(folder: Path, data: str | None, allow_factory: str | None) -> ExportSource | CascadeSource:
    from exporters.cascade import cascade_source
    from exporters.source import source_from_artifact
    from udacisense.base.records import Artifact, read_json
    from udacisense.cli.loading import load_data
    from udacisense.models.cascade import is_cascade, model_folders

    dataset = None
    if data:
        first = model_folders(folder)[0] / Artifact.FILE_NAME  # all members take the same images
        dataset = load_data(data, size_px=read_json(Artifact, first).signature.size_px)
    make = cascade_source if is_cascade(folder) else source_from_artifact
    return make(folder, dataset=dataset, allow_factory=allow_factory)
