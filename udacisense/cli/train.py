"""``udacisense train``: a model on labelled images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from udacisense.base.display import megabytes, milliseconds, percent
from udacisense.cli.options import allow_factory_option, names_of
from udacisense.cli.output import Choice, dry_run_option, duration, emit_json, json_option, next_command, say, table
from udacisense.cli.training_options import compute_options, supervision_options

if TYPE_CHECKING:
    from udacisense.training import Compute, Supervision


@click.command("train", short_help="Train a model on labelled images.")
@click.option("--data", required=True, help="'cifar100' (downloaded), or a folder with {train,test}/<class>/*.")
@click.option(
    "--model",
    "preset",
    default="baseline",
    show_default=True,
    help="baseline, p1-student, p1-slim, tiny or p2-student.",
    shell_complete=names_of("udacisense.models.build", "PRESETS"),
)
@click.option(
    "--init", default="none", show_default=True, help="'imagenet' (downloaded), 'none', or a .safetensors file."
)
@click.option("--epochs", default=30, show_default=True)
@click.option("--batch-size", default=64, show_default=True)
@click.option("--lr", "learning_rate", default=1e-3, show_default=True)
@click.option("--optimizer", default="adamw", show_default=True, type=Choice(["adamw", "sgd"]))
@click.option("--schedule", default="cosine", show_default=True, type=Choice(["cosine", "plateau", "constant"]))
@click.option("--weight-decay", default=1e-2, show_default=True, help="With sgd take about 1e-4.")
@click.option("--label-smoothing", default=0.0, show_default=True)
@click.option("--patience", type=int, help="Stop after so many epochs without a better validation result.")
@click.option(
    "--select-by", default="top1", show_default=True, type=Choice(["top1", "loss"]), help="What chooses the best epoch."
)
@click.option("--warmup", "warmup_epochs", default=1.0, show_default=True, help="Epochs of rising learning rate.")
@click.option("--ema", "ema_decay", type=float, help="Decay of averaged weights, e.g. 0.999.")
@click.option("--resolution", "resolution_px", type=int, help="Edge that the network sees; its preset's by default.")
@click.option("--image-size", "size_px", default=32, show_default=True, help="Edge of the images that are fed in.")
@supervision_options
@compute_options
@click.option("--channels-last", is_flag=True, help="Train with channels-last tensors.")
@click.option("--seed", default=0, show_default=True)
@allow_factory_option
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder of the run.")
@click.option("--resume/--no-resume", default=True, show_default=True, help="Go on from the last finished epoch.")
@dry_run_option
@json_option
def command(
    *,
    data: str,
    preset: str,
    init: str,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    optimizer: str,
    schedule: str,
    label_smoothing: float,
    patience: int | None,
    select_by: str,
    warmup_epochs: float,
    weight_decay: float,
    ema_decay: float | None,
    resolution_px: int | None,
    size_px: int,
    channels_last: bool,
    seed: int,
    allow_factory: str | None,
    output: Path,
    resume: bool,
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
    from udacisense.cli.costs import announce, training_cost
    from udacisense.data.batches import Batches
    from udacisense.data.images import load_dataset
    from udacisense.models.build import preset as make_spec
    from udacisense.pipeline.initial import check_init
    from udacisense.training import TrainConfig, train_model, training_split

    config = TrainConfig(
        epochs=epochs,
        learning_rate=learning_rate,
        optimizer=optimizer,  # type: ignore[arg-type]  # Choice allows nothing else
        schedule=schedule,  # type: ignore[arg-type]
        weight_decay=weight_decay,
        label_smoothing=label_smoothing,
        early_stopping_patience=patience,
        select_by=select_by,  # type: ignore[arg-type]
        warmup_epochs=warmup_epochs,
        ema_decay=ema_decay,
        channels_last=channels_last,
        compute=compute,
        seed=seed,
    )
    dataset = load_dataset(data, size_px=size_px)
    spec = make_spec(preset, num_classes=len(dataset.class_names), resolution_px=resolution_px, size_px=size_px)
    check_init(spec, init)
    supervision = replace(supervision, allow_factory=allow_factory)
    Batches(dataset.train, batch_size=batch_size)  # refused before the cost is told, as everything that can be
    n_images = round(len(training_split(dataset)[0]) * supervision.images_for_each)
    announce(training_cost(spec, n_images=n_images, epochs=epochs, channels_last=channels_last), output)
    if dry_run:
        return
    artifact = train_model(
        spec,
        dataset,
        config=config,
        output_dir=output,
        init=init,
        batch_size=batch_size,
        name=preset,
        resume=resume,
        supervision=supervision,
    )
    if as_json:
        emit_json(artifact)
        return
    figures = artifact.baseline
    took = duration(figures.duration_s)
    say(f"{artifact.name} on {figures.n_eval_images} test images of {dataset.name}, trained in {took}:")
    rows: list[list[str | None]] = [
        ["top-1", percent(figures.top1_fraction)],
        ["top-5", percent(figures.top5_fraction)],
        ["parameters", f"{figures.parameters:,}"],
        ["size", megabytes(figures.file_bytes)],
        ["latency", f"{milliseconds(figures.latency_ms)} (median, batch 1, this process)"],
        ["kept in", str(output / "artifact")],
    ]
    table("Trained", ["what", "figure"], rows)
    line = ["compress", "--pipeline", "p1", "--baseline", output / "artifact", "--data", data, "-o", "runs/p1"]
    next_command("udacisense", *line)
