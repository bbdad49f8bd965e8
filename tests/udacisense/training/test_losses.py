from __future__ import annotations

import math

import pytest
import torch
from training_cases import build, tiny_spec

from udacisense.errors import InputError
from udacisense.training import Distillation
from udacisense.training.losses import distillation_loss


def test_distillation_loss_on_hand_computed_logits() -> None:
    # T = 2: student (0, 0) -> (1/2, 1/2); teacher (2 ln 3, 0) -> (3/4, 1/4); label 0.
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[2 * math.log(3), 0.0]])
    kl = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    ce = math.log(2)
    label = torch.tensor([0])
    for alpha in (0.0, 0.7, 1.0):
        loss = distillation_loss(student, teacher, label, temperature=2.0, alpha=alpha)
        assert loss.item() == pytest.approx(alpha * 4 * kl + (1 - alpha) * ce, abs=1e-6)


def test_distillation_loss_averages_over_the_batch_and_not_over_classes() -> None:
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[2 * math.log(3), 0.0]])
    one = distillation_loss(student, teacher, torch.tensor([0]), temperature=2.0, alpha=0.7)
    three = distillation_loss(
        student.repeat(3, 1), teacher.repeat(3, 1), torch.tensor([0, 0, 0]), temperature=2.0, alpha=0.7
    )
    assert three.item() == pytest.approx(one.item(), abs=1e-6)


def test_distillation_gradient_keeps_its_size_when_the_temperature_rises() -> None:
    # Hinton et al. 2015: with T², the soft gradient tends to (z - v) / C for large T, and does not vanish.
    teacher, label = torch.tensor([[1.0, -1.0]]), torch.tensor([0])
    for temperature in (20.0, 200.0):
        logits = torch.zeros(1, 2, requires_grad=True)
        distillation_loss(logits, teacher, label, temperature=temperature, alpha=1.0).backward()
        assert logits.grad is not None
        assert logits.grad.flatten().tolist() == pytest.approx([-0.5, 0.5], abs=1e-2)


@pytest.mark.parametrize(
    ("temperature", "alpha", "word"),
    [
        (0.0, 0.5, "temperature"),
        (-1.0, 0.5, "temperature"),
        (float("nan"), 0.5, "temperature"),
        (3.0, -0.1, "alpha"),
        (3.0, 1.1, "alpha"),
        (3.0, float("nan"), "alpha"),
    ],
)
def test_meaningless_distillation_settings_are_refused(temperature: float, alpha: float, word: str) -> None:
    with pytest.raises(InputError, match=word):
        Distillation(teacher=build(tiny_spec()), temperature=temperature, alpha=alpha)


def test_a_teacher_with_other_classes_is_refused() -> None:
    with pytest.raises(InputError, match="same classes"):
        distillation_loss(torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2).long(), temperature=3.0, alpha=0.7)
