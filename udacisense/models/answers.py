"""What a network answers: is it a classifier's answer, and can the network be trained?"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from udacisense.errors import InputError, foreign_cause
from udacisense.models.weights import plain_state


def check_trains(model: nn.Module, *, classes: int, size_px: int) -> None:
    """Ask one image before hours are spent: a class too many shows in no loss.

    Args:
        model: eager, with fresh weights.
        classes: of the data.
        size_px: edge of the images.

    Raises:
        InputError: nothing can be loaded into it, no weight of it trains, or it does not answer those classes.
    """
    plain_state(model)
    if not any(weight.requires_grad for weight in model.parameters()):
        raise InputError(
            "No weight of the model trains: it has none, or all have requires_grad=False; let the factory set it to "
            "True for those that are to learn."
        )
    with torch.no_grad():
        image = torch.randn(1, 3, size_px, size_px, generator=torch.Generator().manual_seed(0))
        found = classes_of(answer_of(model.eval(), image))
    if found != classes:
        raise InputError(
            f"The model answers {found} classes and the data has {classes}; build it with the data's number of classes."
        )


def answer_of(model: nn.Module, images: Tensor) -> Tensor:
    """Return what a model answers: (n, C) of float32 (n, 3, H, W), which stays as it is.

    Raises:
        InputError: it does not take them, or answers something else.
    """
    shape = f"({', '.join(map(str, images.shape))})"
    given = images.clone()
    try:
        answered = model(given)
    # Foreign code runs here: whatever it raises means that it does not take this input.
    except BaseException as exc:
        raise InputError(f"The model does not take {shape}: {foreign_cause(exc).rstrip('.')}.") from exc
    count = len(images)
    wanted = f"a classifier answers one tensor ({count}, C)"
    if not isinstance(answered, Tensor):
        raise InputError(f"The model answers {_kinds(answered)} to {shape}; {wanted}, alone or as its 'logits'.")
    if not torch.equal(given, images):
        raise InputError("The model's forward changes its input in place; let it work on a copy, as by x = x * 0.5.")
    if answered.is_nested or answered.layout is not torch.strided:
        kind = "nested" if answered.is_nested else "sparse"
        raise InputError(f"The model answers a {kind} tensor; {wanted}: let it end with a dense one.")
    if answered.device.type != "cpu":
        raise InputError(f"The model answers on {answered.device}; {wanted}, on the device of its input.")
    if answered.ndim != 2 or len(answered) != count:
        raise InputError(f"The model answers {tuple(answered.shape)} to {count} image(s) of {shape}; {wanted}.")
    return answered


def _kinds(answered: object) -> str:
    """Say what came instead of a tensor: a dictionary by its keys, a tuple by its parts."""
    name = type(answered).__name__
    if isinstance(answered, dict):
        return f"{name} with {', '.join(map(str, answered)) or 'nothing'}"
    if isinstance(answered, list | tuple):
        return f"{name} of {', '.join(type(part).__name__ for part in answered) or 'nothing'}"
    return name


def classes_of(answered: Tensor) -> int:
    """Return C of answers (n, C).

    Raises:
        InputError: they are no finite float32, or C is 1.
    """
    if answered.dtype is not torch.float32:
        raise InputError(
            f"The model answers {answered.dtype}".replace("torch.", "")
            + "; a classifier answers logits in float32. Let it end with them, and have model.float() for its weights."
        )
    if answered.shape[1] < 2:
        raise InputError(
            f"The model answers {answered.shape[1]} value an image; one class is no classifier. Let it answer a "
            "logit for each class: two for yes and no."
        )
    if not answered.isfinite().all():
        raise InputError(
            "The model answers NaN or infinity to an ordinary image; look at its weights, at divisions and logarithms."
        )
    return answered.shape[1]
