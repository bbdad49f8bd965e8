"""Is this a classifier that can be exported? Asked once, before anything is written: every cause has its own sentence.

A file is proved by holding its answers against the model's, so the model's own answers have to stand still first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.ao.quantization import FakeQuantizeBase, ObserverBase
from torch.export._unlift import _StatefulGraphModule

from udacisense.errors import InputError
from udacisense.models.answers import answer_of, classes_of
from udacisense.models.weights import plain_state, put_state
from udacisense.stages.contract import Kind, kind_of
from udacisense.stages.graph import decisions

# Another batch size, or another thread, sums in another order; a neighbour's influence is far larger.
_RELATIVE_LIMIT = 1e-3


def check_classifier(model: nn.Module, build: Callable[[], nn.Module], images: Tensor) -> int:
    """Return how many classes a model tells apart.

    Args:
        model: in evaluation mode, on the CPU.
        build: makes the network once more, as every reader of the bundle will.
        images: float32 (n, 3, H, W), normalised; two or more.

    Raises:
        InputError: it is no eager float32 classifier from (n, 3, H, W) to (n, C), or its answers depend on something
            else than its weights and the image.
    """
    refuse_other_forms(model)
    plain_state(model)  # refuses lazy and quantised weights
    for name, parameter in model.named_parameters():
        if parameter.isnan().any():
            raise InputError(f"The model's {name} holds NaN, as after a training that diverged; train it again.")
    with torch.no_grad():
        first = _first_answer(model, images)
        classes = classes_of(first)
        before = {name: value.clone() for name, value in _state(model)}
        again = answer_of(model, images[:1])
        changed = [
            name
            for name, value in _state(model)
            if name not in before or not torch.equal(value.nan_to_num(), before[name].nan_to_num())
        ]
        if changed:
            raise InputError(
                f"The model's forward changes its {changed[0]!r} with every call; a file's weights stay as they are. "
                f"Change it in training mode alone{_still_training(model)}."
            )
        alone, repeated = (torch.cat([answer_of(model, image) for image in torch.split(images, 1)]) for _ in range(2))
        classes_of(alone)  # refuses what is finite for the first image alone
        if moved := _moved(again, first) or _moved(repeated, alone):
            raise InputError(
                f"The model answers the same image differently from call to call ({moved}): dropout that stays on in "
                "evaluation mode, other noise, or a count of its calls. Use nn.Dropout, or pass training=self.training "
                f"to F.dropout{_still_training(model)}."
            )
        _refuse_modes(model, images[:1], first)
        _refuse_another_network(model, build(), images, alone)
        _refuse_neighbours(model, images, alone)
        if len(images) > 1 and (alone == alone[0]).all():
            raise InputError(
                "The model answers every image alike, to the last bit, so that nothing could be proved of a file; look "
                "at its weights, and at what its forward does with its input."
            )
    return classes


def _first_answer(model: nn.Module, images: Tensor) -> Tensor:
    """Return what a model answers to the first image, where no other call changes it."""
    names = model.state_dict().keys()
    first = answer_of(model, images[:1])
    if made := [name for name in model.state_dict() if name not in names]:
        raise InputError(
            f"The model makes its {made[0]} at the first call, where no weights can be loaded into it before; make "
            "it in __init__, or let the factory call the model once, on one image, before it returns it."
        )
    kept = first.clone()
    answer_of(model, images[-1:])
    if not torch.equal(first, kept) and kept.isfinite().all():
        raise InputError(
            "The model answers in a tensor that it keeps, and overwrites by its next call; let forward return another "
            "each time, as by .clone()."
        )
    return kept


def _still_training(model: nn.Module) -> str:
    """Name the first module that eval() has left in training mode, as half a sentence; nothing where there is none."""
    name = next((name for name, module in model.named_modules() if module.training), None)
    return "" if name is None else f": {name or 'it'} stays in training mode after model.eval()"


def refuse_other_forms(model: nn.Module) -> None:
    """Refuse what is no eager float32 network any more.

    Raises:
        InputError: with its form and what to give instead.
    """
    form = None
    if isinstance(model, torch.jit.ScriptModule):
        form = "traced or scripted already (TorchScript)"
    elif any(isinstance(m, torch._dynamo.OptimizedModule) or m._compiled_call_impl for m in model.modules()):
        form = "compiled (torch.compile)"
    elif isinstance(model, _StatefulGraphModule):
        form = "exported already (torch.export)"
    elif kind_of(model) is Kind.EAGER_INT8:
        form = "quantised already"
    elif any(isinstance(m, nn.DataParallel) for m in model.modules()):
        form = "wrapped in DataParallel"
    elif any(isinstance(m, ObserverBase | FakeQuantizeBase) for m in model.modules()):
        form = "prepared for quantisation already (observers or fake quantisation)"
    if form is not None:
        raise InputError(
            f"The model is {form}; give the eager float32 network that it was made from: each format traces, compiles "
            "and quantises by itself."
        )
    for name, value in _state(model):
        if not nn.parameter.is_lazy(value) and (odd := _odd(value)):
            raise InputError(f"The model's {name} {odd}.")


def _odd(value: Tensor) -> str | None:
    """Return why a parameter is no float32 weight in memory, or a buffer not there, and what to do; None: it is one."""
    if value.is_meta:
        return "has no values: it is on the meta device. Let the factory build it on the CPU"
    if value.device.type != "cpu":
        return f"is on {value.device}; let the factory return model.cpu()"
    if value.is_inference():
        return "was made in torch.inference_mode(), where no weights can be loaded; build the model outside of it"
    if isinstance(value, nn.Parameter) and value.is_floating_point() and value.dtype is not torch.float32:
        return f"is {value.dtype}; let the factory return model.float()".replace("torch.", "")
    return None


def _state(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def _moved(answered: Tensor, expected: Tensor, limit: float = _RELATIVE_LIMIT) -> str | None:
    """Return how far answers moved, or None where it is rounding."""
    difference, scale = (answered - expected).abs().max().item(), expected.abs().max().item()
    return None if difference <= limit * scale else f"max |Δ| {difference:.3g} of {scale:.3g}"


def moved_alone(model: nn.Module, images: Tensor, alone: Tensor, limit: float = _RELATIVE_LIMIT) -> str | None:
    """Return how far a network built anew, with the same weights, answers from ``alone``; None where it is rounding.

    Args:
        model: in evaluation mode.
        images: float32 (n, 3, H, W), asked one by one from the last to the first: what it keeps of the first image that
            it sees differs too.
        alone: the first network's answers to them, float32 (n, C).
        limit: of rounding, relative to the largest answer.
    """
    with torch.no_grad():
        return _moved(
            torch.cat([answer_of(model, image) for image in torch.split(images.flip(0), 1)]).flip(0), alone, limit
        )


@contextlib.contextmanager
def _answering_yes(place: ModuleType, question: str) -> Iterator[None]:
    real = getattr(place, question)
    setattr(place, question, lambda: True)
    try:
        yield
    finally:
        setattr(place, question, real)


# How a forward may tell by whom it is called.
_MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "torch.jit.is_tracing()": partial(_answering_yes, torch.jit, "is_tracing"),
    "torch.compiler.is_exporting()": partial(_answering_yes, torch.compiler, "is_exporting"),
    "torch.compiler.is_compiling()": partial(_answering_yes, torch.compiler, "is_compiling"),
    "torch.onnx.is_in_onnx_export()": partial(_answering_yes, torch.onnx, "is_in_onnx_export"),
    "torch.is_inference_mode_enabled()": torch.inference_mode,
    "torch.is_grad_enabled()": torch.enable_grad,
}


def _refuse_modes(model: nn.Module, image: Tensor, expected: Tensor) -> None:
    """Refuse a model that answers otherwise while a file is made of it."""
    for told, mode in _MODES.items():
        answered: Any = expected
        # Foreign code, which may be unable to answer so: the format that needs it says why.
        with contextlib.suppress(Exception), mode():
            answered = model(image.clone())
        is_like = isinstance(answered, Tensor) and answered.shape == expected.shape
        moved = _moved(answered.detach().clone(), expected) if is_like else "another shape"
        if moved:
            raise InputError(
                f"The model answers otherwise where {told} is true ({moved}): its file would not be the model that you "
                "tested. Let forward compute the same wherever it runs."
            )


def _refuse_neighbours(model: nn.Module, images: Tensor, alone: Tensor) -> None:
    """Refuse answers that depend on the other images of a batch; a model for single images alone is fine."""
    try:
        together = model(images)
    # Its code may be for one image: it is exported with that batch size.
    except Exception:
        return
    if not isinstance(together, Tensor) or together.shape != alone.shape:
        shape = tuple(together.shape) if isinstance(together, Tensor) else type(together).__name__
        raise InputError(f"The model answers {shape} to {len(images)} images; a classifier answers (n, C) to n.")
    moved = _moved(together, alone)
    if moved is None:
        return
    untracked = [
        name
        for name, m in model.named_modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and not m.track_running_stats
    ]
    found = decisions(model, images)
    why = "something in it is computed over the whole batch"
    if untracked:
        why = f"{untracked[0]} is BatchNorm without running statistics (track_running_stats=False)"
    elif found:
        why = f"it takes a decision on the input's values for the whole batch, at {found[0]}"
    elif _draws(model, images):
        why = "it draws random numbers"
    raise InputError(
        f"The model answers an image by itself otherwise than among {len(images)} ({moved}): {why}. A phone sees one "
        "image at a time; let each answer depend on its own image."
    )


def _draws(model: nn.Module, images: Tensor) -> bool:
    with torch.random.fork_rng(devices=[]):
        state = torch.manual_seed(1).get_state()
        model(images)
        return not torch.equal(state, torch.get_rng_state())


def _refuse_another_network(model: nn.Module, rebuilt: nn.Module, images: Tensor, alone: Tensor) -> None:
    """Refuse a factory whose next network differs from this one by more than its weights."""
    own, other = model.state_dict(), rebuilt.state_dict()
    odd = sorted(own.keys() ^ other.keys()) or [key for key in own if own[key].shape != other[key].shape]
    if odd:
        raise InputError(
            f"The factory builds another network each time: {odd[0]} is in one of two, or has another shape. Every "
            "reader of the bundle builds it anew, so it must be the same; seed what it draws, or give it as an option."
        )
    put_state(rebuilt.eval(), own)
    if moved := moved_alone(rebuilt, images, alone):
        raise InputError(
            f"The factory builds another network each time: with the same weights the next one answers otherwise "
            f"({moved}). Something that is drawn or counted is no parameter and no buffer; register it as one, and "
            "modules of a plain list by nn.ModuleList."
        )
