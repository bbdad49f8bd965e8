"""Options of commands that train, handed on as records: what it computes on, and what it learns from."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from udacisense.cli.output import Choice

F = TypeVar("F", bound=Callable[..., Any])


class _Views(click.ParamType[Any]):
    """A number of views, or ``fresh``."""

    name = "N|fresh"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a number, or ``fresh``."""
        if value == "fresh" or isinstance(value, int):
            return value
        try:
            return int(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor 'fresh'.", param, ctx)


_COMPUTE = {
    "device": click.option("--device", default="cpu", show_default=True, type=Choice(["cpu", "cuda", "mps", "auto"])),
    "precision": click.option(
        "--precision",
        default="32",
        show_default=True,
        type=Choice(["32", "bf16", "16"]),
        help="Bits of the products in training; weights stay in 32.",
    ),
    "devices": click.option("--devices", default=1, show_default=True, help="Processes on each node, one a device."),
    "nodes": click.option("--nodes", default=1, show_default=True, help="Machines that run this same command."),
    "compile": click.option(
        "--compile",
        default="auto",
        show_default=True,
        type=Choice(["auto", "on", "off"]),
        help="Compile the network; auto: where it pays and can be done; on: or end with the reason.",
    ),
}
_CONFIG = {
    "epochs": click.option("--epochs", default=30, show_default=True),
    "learning_rate": click.option("--lr", "learning_rate", default=1e-3, show_default=True),
    "optimizer": click.option("--optimizer", default="adamw", show_default=True, type=Choice(["adamw", "sgd"])),
    "schedule": click.option(
        "--schedule", default="cosine", show_default=True, type=Choice(["cosine", "plateau", "constant"])
    ),
    "weight_decay": click.option("--weight-decay", default=1e-2, show_default=True, help="With sgd take about 1e-4."),
    "label_smoothing": click.option("--label-smoothing", default=0.0, show_default=True),
    "early_stopping_patience": click.option(
        "--patience",
        "early_stopping_patience",
        type=int,
        help="Stop after so many epochs without a better validation result.",
    ),
    "select_by": click.option(
        "--select-by",
        default="top1",
        show_default=True,
        type=Choice(["top1", "loss"]),
        help="What chooses the best epoch.",
    ),
    "warmup_epochs": click.option(
        "--warmup", "warmup_epochs", default=1.0, show_default=True, help="Epochs of rising learning rate."
    ),
    "ema_decay": click.option("--ema", "ema_decay", type=float, help="Decay of averaged weights, e.g. 0.999."),
    "channels_last": click.option("--channels-last", is_flag=True, help="Train with channels-last tensors."),
    "seed": click.option("--seed", default=0, show_default=True),
}
_SUPERVISION = {
    "augment": click.option(
        "--augment",
        default="auto",
        show_default=True,
        type=Choice(["auto", "none", "crop", "photo", "randaugment", "trivialaugment"]),
        help="How training images change; auto: photo, and crop up to 64 px.",
    ),
    "balance": click.option("--balance", is_flag=True, help="Let each class come equally often in training."),
    "teacher": click.option(
        "--teacher",
        type=click.Path(path_type=Path),
        help="Who teaches: an artifact folder, or an .onnx file that takes pixels 0-255.",
    ),
    "temperature": click.option("--temperature", type=float, help="Of the teacher's answers."),
    "alpha": click.option("--alpha", type=float, help="Weight of the teacher against the labels, 0 to 1."),
    "transfer": click.option(
        "--transfer", type=click.Path(path_type=Path), help="Folder of unlabelled images to learn from too."
    ),
    "transfer_ratio": click.option(
        "--transfer-ratio", default=3.0, show_default=True, help="Transfer images for each labelled one."
    ),
    "mix": click.option(
        "--mix", default=0.0, show_default=True, help="Fraction of images blended with another; needs --transfer."
    ),
    "transfer_labels": click.option(
        "--transfer-labels",
        default="none",
        show_default=True,
        type=Choice(["none", "folders"]),
        help="Train a head beside the model's own that names the folder of each transfer image, and drop it.",
    ),
    "auxiliary_teacher": click.option(
        "--auxiliary-teacher",
        type=click.Path(path_type=Path),
        help="As --teacher, of any classes: a head beside the model's own learns its answers, and is dropped.",
    ),
    "auxiliary_weight": click.option(
        "--auxiliary-weight", default=1.0, show_default=True, help="Of each such head's loss."
    ),
    "views": click.option(
        "--views",
        type=_Views(),
        help="Different views of an image; fresh: new ones each epoch, the teacher answers live.",
    ),
}


_PLACE = {
    "study": click.option(
        "--study", help="sqlite:///FILE, postgresql://USER@HOST/DB or a journal file; OUTPUT's own by default."
    ),
    "wait_s": click.option(
        "--wait", "wait_s", default=120.0, show_default=True, help="Seconds for a study that went away."
    ),
    "grace_s": click.option(
        "--grace", "grace_s", default=60.0, show_default=True, help="Seconds until a lost worker's trial is redone."
    ),
}


def place_options(function: F) -> F:
    """Add the options of where workers meet; the command gets them as ``place``."""
    return _as_record(function, _PLACE, "place", _maker("udacisense.pipeline.search.place", "Place"))


def compute_options(function: F) -> F:
    """Add the options of what to compute on; the command gets them as ``compute``, its processes started."""

    def make(given: dict[str, Any]) -> object:
        from udacisense.training.compute import Compute, is_leader, launch

        made = Compute(**given)
        made.check()
        if made.processes > 1 and not click.get_current_context().params.get("dry_run"):
            launch(made)
        if not is_leader():  # it trains along; the first process speaks
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.dup2(nowhere, sys.stderr.fileno())
        return made

    return _as_record(function, _COMPUTE, "compute", make)


def config_options(function: F) -> F:
    """Add the settings of a training run; the command gets them as ``config``, checked, to compute on the CPU."""
    return _as_record(function, _CONFIG, "config", _maker("udacisense.training.types", "TrainConfig"))


def supervision_options(function: F) -> F:
    """Add the options of what to learn from; the command gets them as ``supervision``, checked."""
    return _as_record(function, _SUPERVISION, "supervision", _maker("udacisense.training.supervision", "Supervision"))


def _maker(module: str, name: str) -> Callable[[dict[str, Any]], object]:
    """Return what makes a record of a module, which is imported when it is needed."""

    def make(given: dict[str, Any]) -> object:
        return getattr(importlib.import_module(module), name)(**given)

    return make


def _as_record(
    function: F, options: Mapping[str, Callable[[F], F]], name: str, make: Callable[[dict[str, Any]], object]
) -> F:
    @functools.wraps(function)
    def handed(**given: Any) -> Any:
        chosen = {option: given.pop(option) for option in options}
        return function(**given, **{name: make(chosen)})

    made = cast("F", handed)
    for option in reversed(list(options.values())):
        made = option(made)
    return made
