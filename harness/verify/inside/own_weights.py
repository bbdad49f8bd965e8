"""A file's answers against its source's with the file's own weights: what coarse weights otherwise hide.

Sixteen weight values a tensor move answers as far as another activation function does. With the weights that the file
itself holds, expanded, in the float32 model, that noise is in both; what is left is the arithmetic of float16. Whether
the weights are right is another question: see :mod:`harness.verify.inside.weights`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn

from harness.runners.table import CannotJudgeError

if TYPE_CHECKING:
    from exporters.bundle.manifest import Variant
    from exporters.bundle.open import Bundle
    from harness.runners.mil.program import Program

PRECISIONS = ("int8-weights", "palette6", "palette4")
# Undamaged files are at 65.9 dB or more, whatever their weights; another activation in one place leaves 25 dB.
LIMIT_DB = 50.0
_IMAGES = 16  # of the golden pack


def fused_reference(bundle: Bundle, variant: Variant, allow_factory: str | None) -> nn.Module:
    """Return the float32 master, BatchNorm folded into the layer before it, taking normalised images to logits."""
    from harness.verify.locate.rungs import STEPS, Context

    plain = dataclasses.replace(variant, input_kind="normalized", output_kind="logits")
    example = torch.from_numpy(bundle.golden_inputs()[:1])
    context = Context(bundle=bundle, variant=plain, example=example, allow_factory=allow_factory)
    model = STEPS["fused"](nn.Identity(), context) or STEPS["eager"](nn.Identity(), context)
    assert model is not None
    return model


def layers_in_order(model: nn.Module, example: Tensor) -> list[tuple[str, nn.Module]]:
    """Return every convolution and linear layer with its name, in the order of their calls.

    Args:
        model: called once.
        example: float32 (1, 3, H, W).
    """
    from harness.verify.locate.trace import is_layer

    order: list[tuple[str, nn.Module]] = []
    with ExitStack() as hooks, torch.no_grad():
        for name, layer in model.named_modules():
            if is_layer(layer):
                hooks.enter_context(layer.register_forward_hook(lambda m, _g, _o, n=name: order.append((n, m))))
        model(example)
    return order


def program_weights(program: Program) -> list[tuple[str, Tensor]]:
    """Return the weights of a Core ML program's convolutions and linear layers in its order, expanded, float32."""
    return [
        (step.outputs[0][0], cast("Tensor", step.arguments["weight"]))
        for step in program.steps
        if step.operator in {"conv", "linear"}
    ]


def compare_own(bundle: Bundle, variant: Variant, reference: nn.Module) -> tuple[str, ...]:
    """Say whether a Core ML file computes something else with its weights than its source does with them.

    Args:
        bundle: of the variant.
        variant: a Core ML file of one of :data:`PRECISIONS`.
        reference: of :func:`fused_reference`; left as it is.

    Raises:
        CannotJudgeError: their layers are not the same.
    """
    from harness.runners.mil.program import read_program

    images = torch.from_numpy(bundle.golden_inputs()[:_IMAGES])
    program = read_program(bundle.path(str(variant.path)))
    with (
        _with_weights(reference, [weight for _, weight in program_weights(program)], images[:1]) as source,
        torch.inference_mode(),
    ):
        wanted = source(images)
        got = torch.cat([program.evaluate(image) for image in images.split(1)])  # type: ignore[no-untyped-call]
    if got.shape != wanted.shape:
        return (f"its answers have the shape {tuple(got.shape)}, those of its source {tuple(wanted.shape)}",)
    psnr = psnr_db(got, wanted)
    if psnr >= LIMIT_DB:
        return ()
    return (
        f"PSNR against its source with the file's own weights in it {psnr:.1f} dB, at least {LIMIT_DB:g} dB wanted: "
        "something other than its weights is wrong, as an activation function, a bias or the order of the labels",
    )


def psnr_db(got: Tensor, wanted: Tensor) -> float:
    """Return 20 · log10 of the range of ``wanted`` over the RMSE; NaN where ``got`` is not finite."""
    error = (got.double() - wanted.double()).square().mean().sqrt().item()
    span = (wanted.max() - wanted.min()).item()
    return float("inf") if error == 0 else 20 * float(np.log10(max(span, 1e-12) / error))


@contextmanager
def _with_weights(model: nn.Module, weights: list[Tensor], example: Tensor) -> Iterator[nn.Module]:
    """Put other weights into a model's layers, biases kept, while the block runs."""
    layers = [cast("Tensor", module.weight) for _, module in layers_in_order(model, example)]
    if [(len(old), old.numel()) for old in layers] != [(len(new), new.numel()) for new in weights]:
        raise CannotJudgeError("their layers are not the same")
    own = [old.detach().clone() for old in layers]
    try:
        with torch.no_grad():
            for old, new in zip(layers, weights, strict=True):
                old.copy_(new.reshape(old.shape))
        yield model
    finally:
        with torch.no_grad():
            for old, kept in zip(layers, own, strict=True):
                old.copy_(kept)
