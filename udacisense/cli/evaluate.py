"""``udacisense evaluate``: a trained model on the test images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from udacisense.base.display import percent
from udacisense.cli.options import allow_factory_option, allowing
from udacisense.cli.output import Choice, emit_json, json_option, next_command, say, table

if TYPE_CHECKING:
    from udacisense.measure.metrics import Evaluation

_MOST_CLASSES = 20  # that are shown one by one, with what each is taken for


@click.command("evaluate", short_help="Measure a trained model on the test images.")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--data", required=True, help="'cifar100', or a folder with {train,test}/<class>/*.")
@click.option("--device", default="cpu", show_default=True, type=Choice(["cpu", "cuda", "mps", "auto"]))
@click.option("--shift", "is_shifted", is_flag=True, help="Also on photos blurred, noisy, dark, turned, ...")
@allow_factory_option
@json_option
def command(
    *, artifact: Path, data: str, device: str, is_shifted: bool, allow_factory: str | None, as_json: bool
) -> None:
    """Measure ARTIFACT (a folder that 'train' or 'compress' wrote): top-1, top-5, accuracy per class, confusion."""
    from udacisense.cli.loading import load_data
    from udacisense.data.batches import evaluation_batches
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
    batches = evaluation_batches(dataset.test, signature)
    where = resolve_device(device)
    result = evaluate(model.to(where), batches, dataset.class_names, device=where)
    if is_shifted:
        from udacisense.measure.shifts import evaluate_shifts

        result = replace(result, shifts=evaluate_shifts(model, dataset.test, signature, device=where))
    if as_json:
        emit_json(result)
        return
    say(f"{record.name} on {result.n_images} test images of {dataset.name}:")
    top5 = f", top-5 {percent(result.top5_fraction)}" if len(result.per_class) > 5 else ""
    say(f"top-1 {percent(result.top1_fraction)}{top5}, mean recall of the classes {percent(result.macro_fraction)}\n")
    _show_classes(result, dataset.class_names)
    if result.shifts is not None:
        say(
            "\nTop-1 under shift (at most 200 of the images; severities 1 to 5 as in CIFAR-10-C where it has the shift)"
        )
        for shift in result.shifts:
            say(f"{shift.shift:<14}" + "".join(f"{percent(value):>9}" for value in shift.top1_fractions))
    line: list[object]
    if allow_factory is None:
        line = ["compress", "--pipeline", "p1", "--baseline", artifact, "--data", data, "-o", "runs/p1"]
    else:  # a pipeline's student has no part in a network that is not ours
        line = ["export", artifact, *allowing(allow_factory), "--data", data, "-o", "runs/bundle"]
    next_command("udacisense", *line)


def _show_classes(result: Evaluation, names: Sequence[str]) -> None:
    """Show each class and what it is taken for; of many classes those that are named worst."""
    images = {name: sum(row) for name, row in zip(names, result.confusion, strict=True)}
    worst = sorted(result.per_class, key=result.per_class.__getitem__)[:_MOST_CLASSES]
    shown = [name for name in result.per_class if len(names) <= _MOST_CLASSES or name in worst]
    title = "Per class" if len(names) <= _MOST_CLASSES else f"The {len(shown)} classes with the least recall"
    table(title, ["class", "images", "recall"], [[n, images[n], percent(result.per_class[n])] for n in shown])
    if len(names) <= _MOST_CLASSES:
        say("\nConfusion (rows: true class; columns: answer, in the same order)")
        width = max(len(name) for name in names)
        for name, row in zip(names, result.confusion, strict=True):
            say(f"{name:<{width}}  " + " ".join(f"{count:4d}" for count in row))
        return
    cells = [(n, names[i], names[j]) for i, row in enumerate(result.confusion) for j, n in enumerate(row) if i != j]
    most = sorted(cell for cell in cells if cell[0])[:-11:-1]
    say()
    table(
        "Most often taken for another", ["class", "answer", "images"], [[name, answer, n] for n, name, answer in most]
    )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (f", … ({len(names)} in all)" if len(names) > 12 else "")
