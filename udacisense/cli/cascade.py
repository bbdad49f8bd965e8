"""``udacisense cascade``: small models answer, larger ones are asked where they are not sure."""

from __future__ import annotations

import math
from pathlib import Path

import click

from udacisense.cli.options import OutputPath, allow_factory_option
from udacisense.cli.output import emit_json, json_option, next_command, say, show


def _number(_: click.Context, param: click.Parameter, value: float | None) -> float | None:
    if value is not None and math.isnan(value):
        raise click.BadParameter(f"{param.opts[0]} is nan; give a number, for example 1.")
    return value


@click.command("cascade", short_help="Let a small model answer, and a larger one where it is not sure.")
@click.argument("members", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--data", required=True, help="'cifar100', or a folder with {train,test}/<class>/*.")
@click.option(
    "--max-points-lost",
    type=float,
    callback=_number,
    help="Top-1 that may be lost to the last member alone; default: 1.",
)
@click.option(
    "--max-mean-ms", type=float, callback=_number, help="Mean time of an image, in eager PyTorch on one thread."
)
@click.option("--max-asked", type=float, help="Share of the images that may go past the first member, 0 to 1.")
@allow_factory_option
@click.option("-o", "--output", required=True, type=OutputPath(is_folder=True), help="Folder of the cascade.")
@json_option
def command(
    *,
    members: tuple[Path, ...],
    data: str,
    max_points_lost: float | None,
    max_mean_ms: float | None,
    max_asked: float | None,
    allow_factory: str | None,
    output: Path,
    as_json: bool,
) -> None:
    """Join MEMBERS, from small to large (artifacts, or models that ship), into a cascade.

    A member answers where its best two probabilities are at least a threshold apart; otherwise the next one is asked.
    The thresholds are chosen for your wish on the training images that 'train' and 'compress' hold back; the test
    images give the report's figures and choose nothing.
    """
    from harness.report.plots.cascade import cascade_table
    from udacisense.base.files import locked
    from udacisense.cli.loading import load_data
    from udacisense.errors import InputError
    from udacisense.measure.cascade import Wish
    from udacisense.models.cascade import candidates, make_cascade, save_cascade
    from udacisense.training import training_split

    if max_asked is not None and not 0 <= max_asked <= 1:
        raise InputError(f"--max-asked is {max_asked:g}; give a share of the images from 0 to 1, for example 0.3.")
    if (max_points_lost, max_mean_ms, max_asked) == (None, None, None):
        max_points_lost = 1.0
    found = candidates(members, allow_factory=allow_factory)
    signature = found[0].artifact.signature
    dataset = load_data(data, size_px=signature.size_px)
    if dataset.class_names != signature.labels:
        raise InputError(f"{data} has other classes than the members; give the data that they were made for.")
    with locked(output):
        made = make_cascade(
            found,
            held_back=training_split(dataset)[1],
            test=dataset.test,
            data=dataset.name,
            wish=Wish(max_points_lost=max_points_lost, max_mean_ms=max_mean_ms, max_asked_fraction=max_asked),
            name=output.resolve().name,
        )
        save_cascade(output, made, found)
    if as_json:
        emit_json(made)
        return
    show(cascade_table(made))
    say(f"\nThe cascade is {output}.")
    next_command("udacisense", "export", output, "--data", data, "-o", output.with_name(f"{output.name}-bundle"))
