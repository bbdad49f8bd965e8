"""``udacisense train``: a model on labelled images."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from udacisense.base.display import megabytes, milliseconds, percent
from udacisense.cli.options import (
    OutputPath,
    allow_factory_option,
    allowing,
    found_beside_the_user,
    model_options,
    names_of,
)
from udacisense.cli.output import announce, dry_run_option, duration, emit_json, json_option, next_command, say, table
from udacisense.cli.training_options import compute_options, config_options, supervision_options

if TYPE_CHECKING:
    from udacisense.base.records import Artifact, ModelSpec, Scalar
    from udacisense.data.images import DataSet
    from udacisense.training import Compute, Supervision, TrainConfig


@click.command("train", short_help="Train a model on labelled images.")
@click.option("--data", required=True, help="'cifar100' (downloaded), or a folder with {train,test}/<class>/*.")
@click.option(
    "--model",
    "preset",
    default="baseline",
    show_default=True,
    callback=found_beside_the_user,
    help="baseline, p1-student, p1-slim, tiny, p2-student, torchvision/NAME, timm/NAME or package.module:factory.",
    shell_complete=names_of("udacisense.models.build", "PRESETS"),
)
@model_options()
@click.option(
    "--init", default="none", show_default=True, help="'pretrained' (downloaded), 'none', or a .safetensors file."
)
@click.option("--batch-size", default=64, show_default=True)
@config_options
@click.option("--resolution", "resolution_px", type=int, help="Edge that the network sees; its preset's by default.")
@click.option(
    "--image-size",
    "size_px",
    type=int,
    help="Edge of the images that are fed in; by default small images' own, and for photos the network's resolution.",
)
@supervision_options
@compute_options
@allow_factory_option
@click.option("-o", "--output", required=True, type=OutputPath(is_folder=True), help="Folder of the run.")
@click.option("--resume/--no-resume", default=True, show_default=True, help="Go on from the last finished epoch.")
@dry_run_option
@json_option
def command(
    *,
    data: str,
    preset: str,
    model_options: dict[str, Scalar],
    init: str,
    batch_size: int,
    resolution_px: int | None,
    size_px: int | None,
    allow_factory: str | None,
    output: Path,
    resume: bool,
    config: TrainConfig,
    supervision: Supervision,
    compute: Compute,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Train a model and keep it as OUTPUT/artifact.

    A tenth of the training images (seeded, by class) selects the best epoch; the test images are read for the
    figures alone. A checkpoint is kept after each epoch: the same command goes on after Ctrl-C or a crash, and ends
    with the same weights as an uninterrupted run.
    """
    from udacisense.cli.loading import load_data, say_interpolation, say_the_worst
    from udacisense.models.build import preset as make_spec
    from udacisense.pipeline.initial import check_init
    from udacisense.training import train_model

    named = partial(make_spec, preset, resolution_px=resolution_px, options=model_options)
    dataset = load_data(data, size_px=size_px, resolution_px=named().options.get("resolution_px"))
    spec = named(num_classes=len(dataset.class_names), size_px=dataset.size_px)
    check_init(spec, init)
    given: dict[str, Any] = {
        "config": replace(config, compute=compute),
        "batch_size": batch_size,
        "supervision": replace(supervision, allow_factory=allow_factory),
    }
    _announce(spec, dataset, output, init=init, is_all=dry_run, resume=resume, **given)
    say_interpolation(spec, init)
    say_the_worst(data, dataset, is_read=not dry_run)
    if dry_run:
        return
    artifact = train_model(spec, dataset, output_dir=output, init=init, name=preset, resume=resume, **given)
    if as_json:
        emit_json(artifact)
    else:
        _show(artifact, dataset, data, output)


def _announce(
    spec: ModelSpec,
    dataset: DataSet,
    output: Path,
    *,
    init: str,
    is_all: bool,
    resume: bool,
    config: TrainConfig,
    batch_size: int,
    supervision: Supervision,
) -> None:
    """Say what the run costs, behind all that can be refused; ``is_all``: no run follows that would refuse the rest."""
    from exporters.check import refuse_other_forms
    from udacisense.cli.loading import say_answers
    from udacisense.data.batches import Batches
    from udacisense.models.answers import check_trains
    from udacisense.training.run import check_resume, estimate_training, fresh_model, images_an_epoch, signature_of
    from udacisense.training.supervision import load_supervision

    Batches(dataset.train, batch_size=batch_size, seed=config.seed)
    model = fresh_model(spec, init="none", seed=config.seed)
    refuse_other_forms(model)
    check_trains(model, classes=len(dataset.class_names), size_px=dataset.size_px)
    if is_all:
        sources = load_supervision(supervision, signature_of(spec, dataset), is_taught=False)
        if resume:
            asked: dict[str, Any] = {"config": config, "init": init, "batch_size": batch_size}
            check_resume(spec, dataset, sources, output_dir=output, **asked)
    n_images = images_an_epoch(dataset, supervision)
    cost = estimate_training(spec, n_images=n_images, epochs=config.epochs, channels_last=config.channels_last)
    announce(cost, output)
    if ":" in spec.architecture:
        say_answers(model, dataset.size_px)


def _show(artifact: Artifact, dataset: DataSet, data: str, output: Path) -> None:
    figures = artifact.baseline
    took = duration(figures.duration_s)
    say(f"{artifact.name} on {figures.n_eval_images} test images of {dataset.name}, trained in {took}:")
    rows: list[list[str | None]] = [
        ["top-1", percent(figures.top1_fraction)],
        ["mean recall of the classes", percent(figures.macro_fraction)],
        ["top-5", percent(figures.told_top5)],
        ["parameters", f"{figures.parameters:,}"],
        ["size", megabytes(figures.file_bytes)],
        ["latency", f"{milliseconds(figures.latency_ms)} (median, batch 1, this process)"],
        ["kept in", str(output / "artifact")],
    ]
    table("Trained", ["what", "figure"], rows)
    line = ["--baseline", output / "artifact", *allowing(artifact.model.architecture), "--data", data, "-o", "runs/p1"]
    next_command("udacisense", "compress", "--pipeline", "p1", *line)
