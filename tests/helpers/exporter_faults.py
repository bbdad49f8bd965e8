"""Faults of an exporter, planted: files that are whole, well formed, and wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.mobile_optimizer import optimize_for_mobile

from exporters.bundle.open import Bundle
from exporters.bundle.reference import eager_source

# Layers of the tiny model: features.0 is the stem, features.k.0 a depthwise and features.k.1 a pointwise convolution.
POINTWISE = "features.3.1.0"
CLASSIFIER = "classifier.1"


def file_of(bundle: Bundle, variant_id: str) -> Path:
    return bundle.path(str(bundle.variant(variant_id).path))


def rewrite(bundle: Bundle, variant_id: str, change: Callable[[nn.Module], nn.Module | None]) -> None:
    """Export a PyTorch variant again, from a source with a fault in it."""
    variant = bundle.variant(variant_id)
    if variant.engine:
        torch.backends.quantized.engine = variant.engine
    torch.manual_seed(0)
    model = eager_source(bundle, variant)
    model = change(model) or model
    example = torch.from_numpy(bundle.golden_inputs()[:1])
    with torch.inference_mode():
        frozen = torch.jit.freeze(torch.jit.trace(model, example, check_trace=False).eval())
    if variant_id.endswith("-xnnpack"):
        frozen = optimize_for_mobile(frozen)
    path = file_of(bundle, variant_id)
    if variant.format == "ptl":
        frozen._save_for_lite_interpreter(str(path))
    else:
        frozen.save(str(path))


def leave_dropout_on(model: nn.Module) -> None:
    model.get_submodule("classifier.0").train()


def scale_every_weight(model: nn.Module) -> None:
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.mul_(1.01)


def scale_weight(model: nn.Module) -> None:
    with torch.no_grad():
        model.get_submodule(POINTWISE).weight.mul_(1.01)


def exchange_channels(model: nn.Module) -> None:
    weight = model.get_submodule(POINTWISE).weight
    with torch.no_grad():
        weight[[0, 1]] = weight[[1, 0]]


def forget_norm(model: nn.Module) -> None:
    model.get_submodule("features.3.1")[1] = nn.Identity()


class OtherResize(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        # There and back by another rule: what an exporter with the wrong resize leaves.
        small = F.interpolate(images, size=(24, 24), mode="bilinear", align_corners=True)
        return self.model(F.interpolate(small, size=(32, 32), mode="bilinear", align_corners=True))


class Permuted(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)[:, [1, 0, 2, 3, 4, 5, 6, 7, 8, 9]]


def other_activation(model: nn.Module) -> None:
    model.get_submodule("features.3.0")[2] = nn.LeakyReLU(0.2)


class OtherMean(nn.Module):
    """Normalised with a mean that is off by 0.02 and a std by 2 %."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model((images - 0.02 / 0.225) * 1.02)


def shift_zero_point(model: nn.Module) -> None:
    # Far enough to push the larger activations out of 8 bits: less only moves the integers.
    model.get_submodule(POINTWISE).zero_point += 120


def scale_int8_linear(model: nn.Module) -> None:
    linear = model.get_submodule(CLASSIFIER)
    weight, bias = linear._packed_params._weight_bias()
    integers, scales = weight.int_repr(), weight.q_scale() * 1.05
    faulty = torch._make_per_tensor_quantized_tensor(integers, scales, weight.q_zero_point())
    linear._packed_params.set_weight_bias(faulty, bias)
