"""Losses of training."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from udacisense.data.images import NO_LABEL
from udacisense.errors import InputError, TrainingError

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def check_distillation(*, temperature: float, alpha: float) -> None:
    """Refuse settings for which the distillation loss has no meaning.

    Raises:
        InputError: ``temperature`` is not positive, or ``alpha`` is outside 0..1.
    """
    if not 0 < temperature < float("inf"):
        raise InputError(f"The distillation temperature is {temperature}; it must be more than 0 (3 or 4 are usual).")
    if not 0 <= alpha <= 1:
        raise InputError(f"The distillation weight alpha is {alpha}; allowed is 0 (labels only) to 1 (teacher only).")


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    alpha: float,
    label_smoothing: float = 0.0,
    n_labelled: Tensor | None = None,
) -> Tensor:
    """Return α·T²·KL(teacher_T ‖ student_T) + (1-α)·CE, averaged over the batch (Hinton et al. 2015, section 2).

    ``x_T`` is softmax(logits / T). T² makes up for the soft gradients' 1/T², so that α keeps its meaning when T
    changes. A worked value, T = 2, α = 1, two classes: student (0, 0) → (1/2, 1/2), teacher (2·ln 3, 0) →
    (3/4, 1/4); KL = 3/4·ln(3/2) + 1/4·ln(1/2) = 0.1308, so the loss is 4 · 0.1308 = 0.5232.

    Args:
        student_logits: float (b, C).
        teacher_logits: float (b, C), a constant.
        labels: int64 (b,); the CE is averaged over those that are not :data:`NO_LABEL`.
        temperature: T > 0.
        alpha: 0..1, the weight of the teacher.
        label_smoothing: 0..1, of the CE part alone.
        n_labelled: by which the sum of the CE is divided; None: the labels that are there.

    Raises:
        InputError: T or α is out of range, or the two models have unlike outputs.
    """
    check_distillation(temperature=temperature, alpha=alpha)
    if student_logits.shape != teacher_logits.shape:
        raise InputError(
            f"The teacher answers {tuple(teacher_logits.shape)} logits and the student {tuple(student_logits.shape)}; "
            "both need the same classes."
        )
    soft = soft_cross_entropy(student_logits, teacher_logits, temperature=temperature)
    labelled = (labels != NO_LABEL).sum() if n_labelled is None else n_labelled
    hard = F.cross_entropy(
        student_logits, labels, label_smoothing=label_smoothing, ignore_index=NO_LABEL, reduction="sum"
    )
    return alpha * soft + (1 - alpha) * hard / labelled.clamp(min=1)


def soft_cross_entropy(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """Return T²·KL(teacher_T ‖ student_T), averaged over the batch; see :func:`distillation_loss`.

    float (b, C), float (b, C) → float ().
    """
    soft = F.kl_div(
        F.log_softmax(student_logits / temperature, dim=1),
        F.log_softmax(teacher_logits / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return temperature**2 * soft


def blended_cross_entropy(logits: Tensor, labels: Tensor, shares: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Return λ·CE(label a) + (1-λ)·CE(label b), averaged by weight over what has a label ("mixup": Zhang et al. 2018).

    Args:
        logits: float (b, C).
        labels: int64 (b, 2), of both images of a blend; :data:`NO_LABEL` counts for nothing.
        shares: float (b,), λ of the first one.
        label_smoothing: 0..1.
    """
    weights = torch.stack([shares, 1 - shares], 1) * (labels != NO_LABEL)
    losses = [
        F.cross_entropy(logits, labels[:, i], label_smoothing=label_smoothing, ignore_index=NO_LABEL, reduction="none")
        for i in range(2)
    ]
    return (torch.stack(losses, 1) * weights).sum() / weights.sum().clamp(min=1e-6)


_LOOK_EVERY = 100  # steps of a GPU after which it is asked whether the losses are finite: each time it has to wait


class EpochLosses:
    """The losses of an epoch's steps. They stay on the device: reading each would make a GPU wait for the host."""

    def __init__(self, device: torch.device, epoch: int) -> None:
        self._every = 1 if device.type == "cpu" else _LOOK_EVERY
        self._epoch, self._losses, self._rates, self._sizes = epoch, list[Tensor](), list[float](), list[int]()

    def add(self, loss: Tensor, n_images: int, rate: float) -> None:
        """Take in a step.

        Raises:
            TrainingError: a loss was not finite; it names the step.
        """
        self._losses.append(loss)
        self._rates.append(rate)
        self._sizes.append(n_images)
        if len(self._losses) % self._every == 0:
            self._look(self._losses[-self._every :])

    def _look(self, last: list[Tensor]) -> list[float]:
        values: list[float] = torch.stack(last).double().tolist() if last else []
        for back, value in enumerate(values):
            step = len(self._losses) - len(last) + back
            if not math.isfinite(value):
                raise TrainingError(
                    f"The loss is {value} in epoch {self._epoch + 1}, step {step + 1}, at learning rate "
                    f"{self._rates[step]:.3g}; lower the learning rate, or look for images or weights that are not "
                    "finite."
                )
        return values

    def mean(self, fabric: Fabric) -> float:
        """Return the mean over the epoch's images, of all processes."""
        values = self._look(self._losses)
        total = sum(value * size for value, size in zip(values, self._sizes, strict=True))
        figures = torch.tensor([total, sum(self._sizes)], dtype=torch.float64)
        if fabric.world_size > 1:
            figures = figures.to(fabric.device)
            torch.distributed.all_reduce(figures)
        return float(figures[0] / figures[1])
