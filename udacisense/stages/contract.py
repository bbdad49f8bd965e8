"""What a pipeline step is: the contract between :class:`udacisense.pipeline.OptimizationPipeline` and its steps.

A step is a function::

    def my_step(model: nn.Module, context: StepContext, *, some_option: float = 1.0) -> StepResult: ...

It gets the model that the step before it left, must not change that model, and returns a new one in eval mode on
the CPU. Options are keyword-only, and plain values (numbers, text, records, modules): they are part of the
fingerprint by which a rerun recognises a finished step. A step draws no random number but from ``context.seed``, so
that the same input gives the same output.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.utils._pytree import tree_leaves

from udacisense.base.records import ModelSpec, Scalar
from udacisense.errors import InputError, cause
from udacisense.measure.recording import is_quantized
from udacisense.training.compute import Compute
from udacisense.training.types import EpochRecord, Keep

Batch = tuple[Tensor, Tensor]  # images float32 (b, 3, H, W), labels int64 (b,)


class Kind(str, Enum):
    """The form a model is in, which decides what can still be done with it."""

    EAGER_FLOAT = "eager float"  # trainable, has float32 weights
    EAGER_INT8 = "eager int8"  # packed weights: can be traced, no longer trained
    TORCHSCRIPT = "torchscript"  # a graph: final

    def __str__(self) -> str:
        return self.value


def kind_of(model: nn.Module) -> Kind:
    """Return the form that a model is in."""
    if isinstance(model, torch.jit.ScriptModule):
        return Kind.TORCHSCRIPT
    return Kind.EAGER_INT8 if any(is_quantized(m) for m in model.modules()) else Kind.EAGER_FLOAT


def copy_of(model: nn.Module) -> nn.Module:
    """Return a deep copy of a model.

    Maps that a forward has left on a module, and the weights that ``weight_norm`` computes, come without the history
    that they were computed by: PyTorch refuses to copy it.

    Raises:
        InputError: the model holds something that cannot be copied, such as a lock or an open file.
    """
    held = [value for module in model.modules() for value in tree_leaves(vars(module)) if isinstance(value, Tensor)]
    try:
        return copy.deepcopy(model, {id(value): value.detach().clone() for value in held if not value.is_leaf})
    except (TypeError, RuntimeError) as exc:
        raise InputError(
            f"{type(model).__name__} cannot be copied ({cause(exc)}); leave what is no weight out of the module."
        ) from exc


def plain_copy(model: nn.Module) -> nn.Module:
    """Return a copy as :func:`make_plain` leaves it."""
    return make_plain(copy_of(model))


def make_plain(model: nn.Module) -> nn.Module:
    """Let a model's layers be plain ones, which every quantiser knows, in place; return it.

    What ``weight_norm``, ``spectral_norm``, ``prune`` and parametrisations compute becomes the layer's own weight, and
    an encoder layer of a transformer leaves the fast path, which reads the float32 weights of its linear layers.
    timm's own linear layer, which differs under TorchScript with mixed precision alone, becomes PyTorch's.
    """
    for module in model.modules():
        if parametrize.is_parametrized(module):
            # PyTorch's own way would take the property off the class that a copy shares with its original.
            computed = {
                name: getattr(module, name).detach().clone() for name in cast("nn.ModuleDict", module.parametrizations)
            }
            module.__class__ = type(module).__bases__[0]
            del module.parametrizations
            for name, value in computed.items():
                module.register_parameter(name, nn.Parameter(value))
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, WeightNorm | SpectralNorm):
                (remove_weight_norm if isinstance(hook, WeightNorm) else remove_spectral_norm)(module, hook.name)
            elif isinstance(hook, prune.BasePruningMethod):
                prune.remove(module, hook._tensor_name)  # type: ignore[no-untyped-call]
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0
        if type(module).__module__ == "timm.layers.linear":
            module.__class__ = nn.Linear
    return model


@dataclass(frozen=True, kw_only=True)
class StepContext:
    """What surrounds a step."""

    train: Iterable[Batch]  # augmented, shuffled
    validation: Iterable[Batch] | None  # split from the training images; None: the pipeline was given none
    class_names: tuple[str, ...]
    input_shape: tuple[int, int, int, int]  # (1, 3, H, W)
    seed: int
    fingerprint: str  # of the step's input model, options and data
    work_dir: Path | None  # for checkpoints while the step runs; removed when it has finished
    resume: bool  # go on from what is in work_dir
    compute: Compute = field(default_factory=Compute)  # what training runs on
    after_epoch: Callable[[EpochRecord], None] | None = None  # see udacisense.training.train

    @property
    def keep(self) -> Keep | None:
        """Where a step that trains keeps its checkpoints."""
        if self.work_dir is None:
            return None
        return Keep(folder=self.work_dir, identity={"step": self.fingerprint}, resume=self.resume)

    @property
    def example(self) -> Tensor:
        """One seeded normal input, float32, of ``input_shape``."""
        return torch.randn(self.input_shape, generator=torch.Generator().manual_seed(self.seed))


@dataclass(frozen=True, kw_only=True)
class Int8Source:
    """What a static int8 model is made from by :func:`udacisense.stages.static.static_int8`."""

    engine: str
    recipe: Mapping[str, Tensor]
    learned: nn.Module | None = None  # its float32 weights; None: those that the step was given


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a step returns."""

    model: nn.Module
    notes: Mapping[str, Scalar] = field(default_factory=dict)  # kept in the StageRecord's config
    spec: ModelSpec | None = None  # how to build the model again where the step changed its architecture
    documents: Mapping[str, object] = field(default_factory=dict)  # records, kept beside the model as <name>.json
    source: Int8Source | None = None  # of static int8


StepFunction = Callable[..., StepResult]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One row of :data:`udacisense.stages.STAGES`."""

    name: str
    function: StepFunction
    produces: Kind
    requires: frozenset[Kind] = frozenset({Kind.EAGER_FLOAT})  # one of these forms


def replace_modules(model: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> None:
    """Put other modules in the place of a model's, in every place where one stands."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None and child in replacements:
                setattr(parent, name, replacements[child])
