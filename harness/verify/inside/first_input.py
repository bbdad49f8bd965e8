"""What reaches the first layer of a file, held against what reaches its source's.

A wrong mean, standard deviation, channel order or resize moves answers by less than a coarse precision's own noise, and
its weights are right. In front of the first layer nothing is coarse yet: float32 and float16 files are within 0.06 %
there, and a mean that is off by 0.02 is at 6 %.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from exporters.bundle.reference import kept_recipe
from harness.inputs import golden_pack, normalized, probe_images
from harness.runners.table import CannotJudgeError
from harness.verify.locate.first_difference import relative_error
from harness.verify.locate.trace import FloatArray, trace_eager, trace_file
from udacisense.stages.static import stays_float

if TYPE_CHECKING:
    from exporters.bundle.manifest import Variant
    from exporters.bundle.open import Bundle
    from harness.inputs import PixelArray

_FIRST = "activation_post_process_0"  # FX's name of the observer that stands first in a network
LIMIT = 0.01  # RMS of the difference over RMS of the expected values; 8 bits of an input would be 0.005


def reference_input(bundle: Bundle, variant: Variant, allow_factory: str | None) -> FloatArray | None:
    """Return what reaches the first layer of the float32 master, of the images of :func:`shown`.

    Returns:
        float32 (n, …) as the layer takes it; None where the master calls no layer as a module.
    """
    from harness.verify.locate.rungs import STEPS, Context

    plain = dataclasses.replace(variant, input_kind="normalized", output_kind="logits")
    images = torch.from_numpy(normalized(shown(bundle), bundle.manifest.signature))
    model = STEPS["eager"](
        nn.Identity(), Context(bundle=bundle, variant=plain, example=images[:1], allow_factory=allow_factory)
    )
    assert model is not None
    layers = trace_eager(model, images).layers
    return layers[0].inputs if layers else None


def shown(bundle: Bundle) -> PixelArray:
    """Return the images that are fed: one of the golden pack, and noise, which no resize leaves as it is."""
    signature = bundle.manifest.signature
    golden = golden_pack(bundle.root, bundle.manifest).inputs.pixels[:1]
    noise: PixelArray = probe_images(signature.size_px)["noise"]
    return np.concatenate([golden, noise[None]])


def compare_input(bundle: Bundle, variant: Variant, expected: FloatArray | None) -> tuple[str, ...]:
    """Say what is wrong with what reaches a file's first layer; nothing where all is right.

    Args:
        bundle: of the variant.
        variant: an ``.onnx`` or Core ML file.
        expected: of :func:`reference_input`.

    Raises:
        CannotJudgeError: its first layer is not its source's.
    """
    got = _file_input(bundle, variant)
    if got is None or expected is None or got.shape != expected.shape:
        raise CannotJudgeError("the file's first layer is not its source's")
    error = min(relative_error(got, as_given) for as_given in (expected, *_cut(bundle, variant, expected)))
    if error <= LIMIT:
        return ()
    return (f"what reaches its first layer is {error:.1%} off (RMS; {LIMIT:.0%} allowed): {_cause(got, expected)}",)


def _cut(bundle: Bundle, variant: Variant, expected: FloatArray) -> tuple[FloatArray, ...]:
    """Return what reaches an int8 first layer at the range of its recipe, which may leave out the ends."""
    recipe = kept_recipe(bundle, variant) if variant.options.get("recipe") is not None else None
    if recipe is None or _FIRST not in recipe or stays_float(recipe):
        return ()
    scale, zero = recipe[_FIRST].tolist()
    return (expected.clip(-zero * scale, (255 - zero) * scale),)


def _file_input(bundle: Bundle, variant: Variant) -> FloatArray | None:
    pixels = shown(bundle)
    is_raw = variant.input_kind == "pixels"
    fed = pixels.astype(np.float32) if is_raw else normalized(pixels, bundle.manifest.signature)
    rows = []
    for image in torch.from_numpy(fed).split(1):  # type: ignore[no-untyped-call]
        batch = image.repeat(variant.batch or 1, 1, 1, 1)
        layers = trace_file(variant.format, bundle.path(str(variant.path)), batch).layers
        if not layers:
            return None
        rows.append(layers[0].inputs[:1])
    return np.concatenate(rows)


def _cause(got: FloatArray, expected: FloatArray) -> str:
    """Tell another normalisation, which keeps the picture, from another picture."""
    if not np.isfinite(got).all():
        return "it holds NaN or infinite values"
    if np.ptp(got) == 0:
        return "it is the same everywhere"
    slope, offset = np.polyfit(expected.ravel().astype(np.float64), got.ravel().astype(np.float64), 1)
    if relative_error((got - offset) / slope, expected) <= LIMIT:
        return f"it is {slope:.3g} times as large and shifted by {offset:.2g}, as by another mean or standard deviation"
    return "it is another picture, as by another resize, channel order, mean or standard deviation"
