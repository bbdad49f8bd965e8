"""The eager source of each precision: the model that a PyTorch variant was traced from, made again at any time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from exporters.bundle.manifest import Precision
from udacisense.base.records import Signature
from udacisense.base.tensors import TENSOR_ERRORS, supported_engines
from udacisense.errors import InputError, LoadError
from udacisense.stages.quantize import dynamic_int8
from udacisense.stages.static import static_int8


class Deployed(nn.Module):
    """A classifier as it ships: normalisation before it and softmax behind it, where asked for.

    float32 (N, 3, H, W) in: normalised, or 0-255 RGB where ``normalize``; float32 (N, C) out: logits, or
    softmax(logits / temperature) where there is a temperature.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, classifier: nn.Module, signature: Signature, *, normalize: bool, temperature: float | None
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.normalize = normalize
        self.temperature = temperature
        # Of 0-255 values: one subtraction and one division, no scaling by 255 first.
        self.register_buffer("mean", torch.tensor(signature.mean).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(signature.std).view(1, 3, 1, 1) * 255)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Return what the variant returns."""
        if self.normalize:
            images = (images - self.mean) / self.std
        outputs: Tensor = self.classifier(images)
        if self.temperature is None:
            return outputs
        return F.softmax(outputs if self.temperature == 1.0 else outputs / self.temperature, dim=1)


def deployed(classifier: nn.Module, signature: Signature, *, normalize: bool, temperature: float | None) -> nn.Module:
    """Return the classifier itself where nothing is put around it, else a :class:`Deployed` one."""
    if not normalize and temperature is None:
        return classifier
    return Deployed(classifier, signature, normalize=normalize, temperature=temperature)


def engine_unavailable(engine: str) -> str | None:
    """Return why this host cannot pack weights for an engine, or None where it can."""
    if engine in supported_engines():
        return None
    return f"the quantised engine {engine!r} is not in this PyTorch; it has {', '.join(supported_engines()) or 'none'}"


def eager_model(
    model: nn.Module,
    precision: Precision,
    engine: str | None,
    *,
    example: Tensor,
    activations: Mapping[str, Tensor] | None,
    signed: bool = True,
) -> nn.Module:
    """Return the eager network that computes in a precision, made from the float32 one (which stays as it is).

    Args:
        model: the float32 classifier, in evaluation mode.
        precision: fp32, int8-dynamic and int8-static have an eager source of their own. For every other one
            (fp16, weights compressed for Core ML) the float32 model itself is the reference.
        engine: quantised engine that packs the int8 weights; None where nothing is quantised.
        example: float32 (1, 3, H, W), for the FX trace.
        activations: what :func:`udacisense.stages.static.calibrate` returned; needed for int8-static alone.
        signed: see :func:`udacisense.stages.static.static_int8`.

    Raises:
        InputError: the engine is not in this PyTorch, or ``activations`` are missing or another model's.
    """
    if engine is None or precision not in {"int8-dynamic", "int8-static"}:
        return model
    if precision == "int8-dynamic":
        return dynamic_int8(model, engine=engine)
    if activations is None:
        raise InputError("A static int8 model needs its calibrated activations; calibrate it first.")
    return static_int8(model, engine, example=example, activations=activations, signed=signed)


def load_activations(path: Path) -> dict[str, Tensor]:
    """Read a recipe, as :func:`udacisense.stages.static.calibrate` returns it, from a safetensors file.

    Raises:
        LoadError: the file is missing or no safetensors file.
    """
    try:
        return load_file(path)
    except TENSOR_ERRORS as exc:
        raise LoadError(f"{path} holds no calibrated activations: {exc}.") from exc
