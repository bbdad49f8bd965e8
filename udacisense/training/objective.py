"""What a run minimises: the model's own loss, and those of heads that train beside it and are dropped afterwards."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from udacisense.data.batches import Batch
from udacisense.errors import InputError, cause
from udacisense.training.losses import blended_cross_entropy, distillation_loss, soft_cross_entropy
from udacisense.training.types import Job

log = logging.getLogger("udacisense")

_TALKERS = ("torch._dynamo", "torch._functorch", "torch._inductor")


class Student(nn.Module):
    """A model in training with its auxiliary heads: images (b, 3, H, W) → logits of the model and of each head.

    A head is one linear layer on what enters the model's classifier (the pooled features).

    Args:
        model: trained in place.
        widths: classes of each head.
        example: one image, float32 (1, 3, H, W), on the model's device.

    Raises:
        InputError: there is a head, and the model has no module named ``classifier``.
    """

    def __init__(self, model: nn.Module, widths: dict[str, int], example: Tensor) -> None:
        super().__init__()
        self.model = model
        self.heads = nn.ModuleDict()
        self._pooled: Tensor | None = None
        self._compiled: Callable[[Tensor], tuple[Tensor, ...]] | None = None
        self._compiled_size, self._must_compile = 0, False
        if not widths:
            return
        classifier = getattr(model, "classifier", None)
        if not isinstance(classifier, nn.Module):
            raise InputError(
                f"An auxiliary head reads what enters a model's classifier, and {type(model).__name__} has no module "
                "of that name; call it so, or train without auxiliary heads."
            )
        classifier.register_forward_pre_hook(self._keep)
        was_training = model.training
        with torch.no_grad():
            model.eval()(example)
        model.train(was_training)
        assert self._pooled is not None, "the model calls its classifier"
        for name, width in widths.items():
            self.heads[name] = nn.Linear(self._pooled.flatten(1).shape[1], width).to(example.device)

    def _keep(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._pooled = inputs[0]

    def compile_for(self, batch_size: int, *, must: bool) -> None:
        """Compile the passes of batches of one size, when the first comes; others run as they are.

        Args:
            batch_size: images of a batch.
            must: a network that cannot be compiled ends the run; else it is trained as it is.
        """
        # Loops between the convolutions on one thread: Inductor's parallel ones do not compile where a map's channels
        # are no multiple of a vector (one name for two arrays, PyTorch 2.7.0).
        options: dict[str, str | int | bool] = {"cpp.threads": 1}
        self._compiled, self._compiled_size = torch.compile(self._answers, dynamic=False, options=options), batch_size
        self._must_compile = must
        for name in () if "TORCH_LOGS" in os.environ else _TALKERS:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)  # they show pages for what is one sentence here

    def compiled_or_not(self, step: Callable[[], Tensor]) -> Tensor:
        """Take a step; where that fails compiled and succeeds as it is, go on as it is.

        PyTorch compiles when the passes first run, the backward one in the backward pass, and again when what it
        relied on has changed. So any step may fail, by any exception.

        Args:
            step: forward and backward pass; it may be called twice, and then counts twice in running statistics.

        Raises:
            InputError: it fails compiled, and it must be compiled.
        """
        try:
            return step()
        except Exception as exc:
            if self._compiled is None or isinstance(exc, torch.OutOfMemoryError):
                raise
            reason, self._compiled = _compiler_says(exc), None
        loss = step()  # what fails as it is too was no fault of compiling, and is raised from here
        if self._must_compile:
            raise InputError(f"The network cannot be compiled ({reason}); give --compile auto or off.")
        log.warning("The network is trained without being compiled: %s.", reason)
        return loss

    def named_weights(self) -> dict[str, nn.Parameter]:
        """Return the parameters: the model's by their own names, the heads' as ``auxiliary.<head>.<name>``."""
        heads = {f"auxiliary.{name}": value for name, value in self.heads.named_parameters()}
        return {**dict(self.model.named_parameters()), **heads}

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return logits (b, C) of the model, then those of each head."""
        if self._compiled is None or len(images) != self._compiled_size or not self.training:
            return self._answers(images)
        return self._compiled(images)

    def _answers(self, images: Tensor) -> tuple[Tensor, ...]:
        logits = self.model(images)
        if not self.heads:
            return (logits,)
        assert self._pooled is not None
        pooled = self._pooled.flatten(1)
        return (logits, *(head(pooled) for head in self.heads.values()))


def _compiler_says(exc: Exception) -> str:
    """Return the C++ compiler's first error, or whatever else failed."""
    found = re.search(r"^.*\berror: .*$", str(exc), re.MULTILINE)
    return found[0].strip() if found else cause(getattr(exc, "inner_exception", exc)).rstrip(".")


def loss_of(
    answers: tuple[Tensor, ...], batch: Batch, job: Job, taught: Tensor | None, taught_auxiliary: Tensor | None
) -> Tensor:
    """Return a batch's loss: labels or teacher for the model, and what the heads are taught, each by its weight.

    Args:
        answers: logits (b, C) of the model, then of the folders' and the auxiliary teacher's head, where there are.
        batch: on the device of the answers.
        job: how each part counts.
        taught: the teacher's logits; None: labels alone.
        taught_auxiliary: the auxiliary teacher's logits.
    """
    logits, *heads = (answer.float() for answer in answers)
    loss = _own_loss(logits, batch, job, taught)
    if job.auxiliary is None:
        return loss
    weight, blend = job.auxiliary.weight, batch.blend
    if job.auxiliary.folders:
        assert blend is not None, "batches that know folders say of what each image is"
        assert blend.folders is not None
        loss = loss + weight * blended_cross_entropy(heads.pop(0), blend.folders, blend.shares)
    if taught_auxiliary is not None:
        temperature = job.auxiliary.temperature
        loss = loss + weight * soft_cross_entropy(heads.pop(0), taught_auxiliary, temperature=temperature)
    return loss


def _own_loss(logits: Tensor, batch: Batch, job: Job, taught: Tensor | None) -> Tensor:
    smoothing, distillation, blend = job.config.label_smoothing, job.distillation, batch.blend
    if distillation is not None and taught is not None:
        return distillation_loss(
            logits,
            taught,
            batch[1],
            temperature=distillation.temperature,
            alpha=distillation.alpha,
            label_smoothing=smoothing,
            n_labelled=batch.n_labelled,
        )
    if blend is not None:
        return blended_cross_entropy(logits, blend.labels, blend.shares, label_smoothing=smoothing)
    return F.cross_entropy(logits, batch[1], label_smoothing=smoothing)
