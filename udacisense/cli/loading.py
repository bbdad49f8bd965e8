"""How commands load a data set: at which size, and what they say of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from udacisense.cli.output import say_cost
from udacisense.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from udacisense.base.records import ModelSpec, Scalar
    from udacisense.data.images import DataSet

_STRONG = 100  # noise, in standard deviations of ordinary images


def load_data(data: str, *, size_px: int | None, resolution_px: Scalar = None) -> DataSet:
    """Load a data set, and say on standard error at which size its photos are fed.

    Args:
        data: ``cifar100`` or a folder.
        size_px: edge of the images; None chooses it by the data and the network.
        resolution_px: edge that the network computes at.

    Raises:
        InputError: as :func:`udacisense.data.images.load_dataset`; or the command writes among the photos.
    """
    from udacisense.data.folder import CIFAR_PX, fitting_px, list_folder, usual_size
    from udacisense.data.images import load_dataset
    from udacisense.models.libraries import USUAL_PX

    if data == "cifar100":
        return load_dataset(data, size_px=CIFAR_PX if size_px is None else size_px)
    _refuse_output_among(Path(data))
    folder = list_folder(Path(data))
    usual = usual_size(folder) or (CIFAR_PX, CIFAR_PX)
    own_px = resolution_px if isinstance(resolution_px, int) else USUAL_PX
    fed_px = fitting_px(min(usual), own_px) if size_px is None else size_px
    dataset = load_dataset(folder, size_px=fed_px)
    if usual != (fed_px, fed_px):
        why = ", the network's own resolution (--image-size changes it)" if size_px is None and fed_px == own_px else ""
        say_cost(
            f"The images of {folder.root.resolve().name}, of about {usual[0]} × {usual[1]} px, are fed at {fed_px} px"
            f"{why}: short edge resized, centre cut out."
        )
    return dataset


def _refuse_output_among(photos: Path) -> None:
    """Refuse a command's ``--output`` that would be a class of the photos, or take their place."""
    context = click.get_current_context(silent=True)
    output = context.params.get("output") if context else None
    if output is None:
        return
    there, own = Path(output).resolve(), photos.resolve()
    if own.is_relative_to(there) or any(there.is_relative_to(own / split) for split in ("train", "test")):
        raise InputError(f"The output {output} lies among the photos of {photos}, or holds them; give another folder.")


def say_the_worst(data: str, dataset: DataSet, *, is_read: bool) -> None:
    """Say on standard error the worst of the images, as far as it is known, and whether the classes are unequal.

    Where they are not to be read, test images that are in train too are not looked for.
    """
    from udacisense.data.check import unequal
    from udacisense.data.images import n_shared

    counts = dataset.train.labels.bincount(minlength=len(dataset.class_names)).tolist()
    told = unequal(dict(zip(dataset.class_names, counts, strict=True)))
    if told is not None:
        say_cost(f"{told[:1].upper()}{told[1:]}.")
    if is_read and (shared := n_shared(dataset)):
        say_cost(
            f"{shared:,} of the {len(dataset.test):,} test images are in train too, and flatter the model: "
            f"'udacisense data check {data}' names them."
        )
    elif dataset.n_skipped:
        files = "1 file" if dataset.n_skipped == 1 else f"{dataset.n_skipped:,} files"
        verb = "is" if dataset.n_skipped == 1 else "are"
        say_cost(f"{files} of {data} {verb} not read: 'udacisense data check {data}' says why.")


def say_answers(model: nn.Module, size_px: int) -> None:
    """Say on standard error where a network of the user's own code does not answer logits, as strong noise shows.

    Logits of ordinary images may all be small; those of a strong one leave what a sigmoid or a softmax answers.
    """
    import torch

    from udacisense.measure.confidence import not_logits
    from udacisense.measure.metrics import inference

    noise = _STRONG * torch.randn(8, 3, size_px, size_px, generator=torch.Generator().manual_seed(0))
    with inference(model):
        answers = model(noise)
    if answers.ndim == 2 and (told := not_logits(answers.numpy())):  # other shapes are refused further on
        say_cost(told)


def say_interpolation(spec: ModelSpec, init: str) -> None:
    """Say on standard error where a network that comes trained was trained on photos that were resized otherwise."""
    from udacisense.models.libraries import network_facts

    found = network_facts(spec).interpolation
    if init != "none" and found != "bilinear":
        say_cost(
            f"{spec.architecture} was trained on photos of {found} resizing; here they are resized bilinearly, as the "
            "app does it: trained on your photos, it learns the difference."
        )
