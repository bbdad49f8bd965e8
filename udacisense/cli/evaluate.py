"""``udacisense evaluate``: a trained model on the test images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from udacisense.base.display import percent
from udacisense.cli.options import allow_factory_option, allowing
from udacisense.cli.output import Choice, emit_json, json_option, next_command, say, table


@click.command("evaluate", short_help="Measure a trained model on the test images.")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--data", required=True, help="'cifar100', or a folder with {train,test}/<class>/*.")
@click.option("--device", default="cpu", show_default=True, type=Choice(["cpu", "cuda", "mps", "auto"]))
@allow_factory_option
@json_option
def command(*, artifact: Path, data: str, device: str, allow_factory: str | None, as_json: bool) -> None:
    """Measure ARTIFACT (a folder that 'train' or 'compress' wrote): top-1, top-5, accuracy per class, confusion."""
    from udacisense.cli.loading import load_data
    from udacisense.data.batches import Batches
    from udacisense.errors import InputError
    from udacisense.measure.metrics import evaluate
    from udacisense.models.artifact import load_artifact
    from udacisense.training.compute import resolve_device

    record, model = load_artifact(artifact, allow_factory=allow_factory)
    signature = record.signature
    dataset = load_data(data, size_px=signature.size_px)
    if dataset.class_names != signature.labels:
        raise InputError(
            f"{data} has the classes {_few(dataset.class_names)}, but {artifact} was trained for "
            f"{_few(signature.labels)}; give the data that the model was made for."
        )
    batches = Batches(dataset.test, batch_size=100, mean=signature.mean, std=signature.std)
    where = resolve_device(device)
    result = evaluate(model.to(where), batches, dataset.class_names, device=where)
    if as_json:
        emit_json(result)
        return
    say(f"{record.name} on {result.n_images} test images of {dataset.name}:")
    say(f"top-1 {percent(result.top1_fraction)}, top-5 {percent(result.top5_fraction)}\n")
    table("Per class", ["class", "top-1"], [[name, percent(value)] for name, value in result.per_class.items()])
    say("\nConfusion (rows: true class; columns: answer, in the same order)")
    width = max(len(name) for name in dataset.class_names)
    for name, row in zip(dataset.class_names, result.confusion, strict=True):
        say(f"{name:<{width}}  " + " ".join(f"{count:4d}" for count in row))
    line: list[object]
    if allow_factory is None:
        line = ["compress", "--pipeline", "p1", "--baseline", artifact, "--data", data, "-o", "runs/p1"]
    else:  # a pipeline's student has no part in a network that is not ours
        line = ["export", artifact, *allowing(allow_factory), "--data", data, "-o", "runs/bundle"]
    next_command("udacisense", *line)


def _few(names: Sequence[str], count: int = 12) -> str:
    return ", ".join(names[:count]) + (f", … ({len(names)} in all)" if len(names) > count else "")
