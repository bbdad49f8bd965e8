"""Quantisation-aware training: the network learns with the rounding that it will run with.

What makes such runs collapse on networks with squeeze-excite and hard-swish, and what is done here about it:

- Observers that start on the first training batch clip what comes after: they are filled on calibration images
  before the first step.
- BatchNorm statistics of small augmented batches differ from the trained ones, and the folded weights move with
  them at every step: the trained statistics stay (BatchNorm frozen from the first epoch).
- Ranges that move until the last step leave the weights tuned to a range that is gone: observers are fixed for
  the last half of the epochs.
- The first blocks, where few channels carry a wide range, lose more than the rest together: the blocks that
  calibration finds to hurt most stay float32.
- Labels alone pull a converged network away from what it knew: the float32 model teaches (T = 3, α = 0.7).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.ao.nn.intrinsic.qat import freeze_bn_stats
from torch.ao.quantization import QConfigMapping, disable_observer, enable_observer, get_default_qat_qconfig
from torch.ao.quantization.fake_quantize import default_per_channel_weight_fake_quant
from torch.ao.quantization.qconfig import QConfig
from torch.ao.quantization.qconfig_mapping import get_default_qat_qconfig_mapping
from torch.ao.quantization.quantize_fx import prepare_qat_fx

from udacisense.base.records import Scalar
from udacisense.base.tensors import supported_engines
from udacisense.errors import InputError
from udacisense.models.weights import put_state
from udacisense.stages.contract import Int8Source, StepContext, StepResult, plain_copy
from udacisense.stages.int8.rounding import SCALES
from udacisense.stages.quantize import quantized_engine
from udacisense.stages.static import STAYS_FLOAT, choose_float_modules, first_images, quiet, static_int8, traceable
from udacisense.training import train
from udacisense.training.types import Distillation, SizedBatches, TrainConfig

_CALIBRATION_IMAGES = 128
_CHOICE_IMAGES = 64
_CALIBRATION_BATCH = 16


def apply_quantization_aware_training(
    model: nn.Module,
    context: StepContext,
    *,
    engine: str | None = None,
    epochs: int = 4,
    learning_rate: float = 5e-5,
    max_float_blocks: int = 2,
    config: TrainConfig = TrainConfig(warmup_epochs=0.0),  # noqa: B008 - frozen
) -> StepResult:
    """Pipeline step: static int8, fine-tuned with fake quantisation (Jacob et al. 2018, section 3).

    Args:
        model: an eager float32 model.
        context: training batches, device and seed.
        engine: ``None`` takes the one PyTorch prefers on this host.
        epochs: 1 or more.
        learning_rate: small: the network is already trained.
        max_float_blocks: how many blocks may stay float32.
        config: every other setting of training.

    Raises:
        InputError: a number is out of range, or this host lacks the engine.
    """
    if epochs < 1 or max_float_blocks < 0:
        raise InputError(
            f"Quantisation-aware training for {epochs} epochs with {max_float_blocks} float32 blocks: allowed are 1 or "
            "more epochs, and 0 or more blocks."
        )
    chosen = engine if engine is not None else next(iter(supported_engines()), "none")
    config = replace(config, epochs=epochs, learning_rate=learning_rate, compute=context.compute, seed=context.seed)
    images, plain = first_images(context, _CALIBRATION_IMAGES), plain_copy(model)
    with quiet(), quantized_engine(chosen):
        kept = _stay_float(model, chosen, images, max_float_blocks)
        trained = train(
            prepared := _prepare(plain, chosen, images, kept),
            cast("SizedBatches", context.train),
            config=config,
            validation=context.validation,
            distillation=Distillation(teacher=model, temperature=3.0, alpha=0.7),
            keep=context.keep,
            before_epoch=lambda training, epoch: _settle(training, fixed=epoch >= epochs // 2),
        )
        found, state = _recipe(trained.model, kept), trained.model.state_dict()
        put_state(plain, {name: state[placed] for name, placed in _places(plain, prepared).items()})
        packed = static_int8(plain.eval(), chosen, example=images[:1], activations=found)
    notes: dict[str, Scalar] = {"engine": chosen, "epochs": epochs, "learning_rate": learning_rate}
    notes |= {"float32_blocks": " ".join(kept) or "none", "best_epoch": trained.history.best_epoch}
    source = Int8Source(engine=chosen, recipe=found, learned=plain)
    return StepResult(model=packed, notes=notes, documents={"history": trained.history}, source=source)


def _stay_float(model: nn.Module, engine: str, images: Tensor, most: int) -> tuple[str, ...]:
    return choose_float_modules(model, engine, images[:_CHOICE_IMAGES], most=most, method="histogram")[0]


def _settle(model: nn.Module, *, fixed: bool) -> None:
    model.apply(freeze_bn_stats)
    if fixed:
        model.apply(disable_observer)


def _prepare(plain: nn.Module, engine: str, images: Tensor, kept: tuple[str, ...]) -> nn.Module:
    """Return the network with fake quantisation, its ranges filled on images, ready to train; it shares the weights."""
    with traceable():
        prepared: nn.Module = prepare_qat_fx(plain.train(), _mapping(engine, kept), (images[:1],))
    with torch.no_grad():
        prepared.apply(enable_observer)
        for batch in torch.split(images, _CALIBRATION_BATCH):
            prepared.eval()(batch)
    return prepared.train()


def _places(plain: nn.Module, prepared: nn.Module) -> dict[str, str]:
    """Return the name of each tensor of a model's state in the network that was prepared from it."""
    names = {id(tensor): name for name, tensor in prepared.state_dict(keep_vars=True).items()}
    own = plain.state_dict(keep_vars=True)
    return {name: names[id(tensor)] for name, tensor in own.items() if id(tensor) in names}


def _recipe(trained: nn.Module, kept: tuple[str, ...]) -> dict[str, Tensor]:
    """Return what training left: see :func:`udacisense.stages.static.calibrate`, and the scales of weights."""
    found = {STAYS_FLOAT + name: torch.zeros(0, dtype=torch.float64) for name in kept}
    for name, module in trained.named_modules():
        if name.startswith("activation_post_process_") and "." not in name:
            scale, zero = cast("Any", module).calculate_qparams()
            found[name] = torch.stack([scale.double().flatten()[0], zero.double().flatten()[0]])
        elif hasattr(module, "weight_fake_quant"):
            found[SCALES + name] = cast("Any", module).weight_fake_quant.calculate_qparams()[0].float()
    return found


def _mapping(engine: str, kept: tuple[str, ...]) -> QConfigMapping:
    mapping = get_default_qat_qconfig_mapping(engine)
    if engine == "qnnpack":  # per channel, as static int8: depthwise convolutions need it
        activation = cast("Any", get_default_qat_qconfig)(engine).activation
        weight = default_per_channel_weight_fake_quant
        mapping.set_global(cast("Any", QConfig)(activation=activation, weight=weight))
    for name in kept:
        mapping.set_module_name(name, None)
    return mapping.set_object_type(F.interpolate, None).set_object_type(nn.Upsample, None)
