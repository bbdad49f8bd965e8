from __future__ import annotations

import dataclasses

import pytest
import torch
from training_cases import CLASSES, SIZE_PX, batches, build, held_back, mobilenet_spec, step_context, tiny_spec

from udacisense.errors import InputError
from udacisense.measure.metrics import evaluate
from udacisense.stages.distill import apply_knowledge_distillation, select_weights
from udacisense.training.checkpoint import state_sha256
from udacisense.training.types import TrainConfig

CONTEXT = step_context(batches(96))


def test_the_student_learns_and_the_teacher_stays() -> None:
    teacher = build(mobilenet_spec())
    before = state_sha256(teacher)
    result = apply_knowledge_distillation(
        teacher, CONTEXT, student=tiny_spec(), alpha=0.1, epochs=10, learning_rate=1e-2
    )
    assert state_sha256(teacher) == before
    assert result.spec == tiny_spec()
    assert evaluate(result.model, held_back(), CLASSES).top1_fraction > 0.9
    assert result.notes["epochs"] == 10
    assert result.notes["temperature"] == 3.0
    assert len(result.documents["history"].epochs) == 10


def test_a_student_with_the_same_features_starts_from_the_teachers() -> None:
    teacher = build(mobilenet_spec(), seed=3)
    frozen = TrainConfig(epochs=1, learning_rate=1e-30, schedule="constant", warmup_epochs=0, weight_decay=0.0)
    result = apply_knowledge_distillation(teacher, CONTEXT, student=mobilenet_spec("p1-student"), config=frozen)
    assert result.notes["student_init"] == "the teacher's features"
    name = "features.0.0.weight"
    assert torch.equal(result.model.state_dict()[name], teacher.state_dict()[name])
    other = apply_knowledge_distillation(
        teacher, CONTEXT, student=mobilenet_spec("p1-student"), config=frozen, student_init="none"
    )
    assert other.notes["student_init"] == "none"
    assert not torch.equal(other.model.state_dict()[name], teacher.state_dict()[name])


def test_a_narrower_student_starts_from_evenly_spaced_channels_of_its_teacher() -> None:
    frozen = TrainConfig(epochs=1, learning_rate=1e-30, schedule="constant", warmup_epochs=0, weight_decay=0.0)
    teacher = build(mobilenet_spec(), seed=3)
    result = apply_knowledge_distillation(teacher, CONTEXT, student=mobilenet_spec("p1-slim"), config=frozen)
    assert result.notes["student_init"] == "a selection of the teacher's channels"
    name = "features.4.block.1.0.weight"  # a depthwise convolution: its channels are those of the layer before
    before, after = (result.model.state_dict()[f"features.4.block.{i}.0.weight"] for i in (0, 1))
    wide, deep = (teacher.state_dict()[f"features.4.block.{i}.0.weight"] for i in (0, 1))
    kept = [next(i for i in range(len(deep)) if torch.equal(deep[i], row)) for row in after]
    assert (kept[0], kept[-1], len(kept)) == (0, len(deep) - 1, len(after)), name
    inputs = torch.linspace(0, wide.shape[1] - 1, before.shape[1]).round().long()
    assert torch.equal(before, wide[kept][:, inputs]), "layers that share channels keep the same ones"


def test_a_student_of_other_layers_or_wider_than_its_teacher_starts_fresh() -> None:
    teacher = {"a": torch.zeros(8, 4), "b": torch.zeros(8)}
    assert select_weights(teacher, {"a": torch.Size((4, 2))}) is None
    assert select_weights(teacher, {"a": torch.Size((4, 5)), "b": torch.Size((4,))}) is None
    frozen = TrainConfig(epochs=1, learning_rate=1e-30, schedule="constant", warmup_epochs=0)
    result = apply_knowledge_distillation(build(mobilenet_spec()), CONTEXT, student=tiny_spec(), config=frozen)
    assert result.notes["student_init"] == "none"


def test_a_preset_is_fitted_to_classes_and_image_size() -> None:
    context = dataclasses.replace(CONTEXT, train=batches(16))
    result = apply_knowledge_distillation(build(mobilenet_spec()), context, student="tiny", epochs=1)
    assert result.spec is not None
    assert result.spec.options["num_classes"] == 3
    assert result.spec.options["size_px"] == SIZE_PX


def test_a_students_width_and_resolution_are_the_ones_asked_for() -> None:
    result = apply_knowledge_distillation(
        build(mobilenet_spec()),
        CONTEXT,
        student="p1-student",
        student_resolution_px=64,
        student_width_mult=0.5,
        epochs=1,
    )
    assert result.spec is not None
    assert result.spec.options["resolution_px"] == 64
    # the last block is six times as wide as its 96 channels, of which half are left
    assert result.model.classifier[0].in_features == 6 * 48


def test_a_student_given_as_a_module_stays_as_it_is() -> None:
    student = build(tiny_spec())
    before = state_sha256(student)
    result = apply_knowledge_distillation(build(mobilenet_spec()), CONTEXT, student=student, epochs=1)
    assert state_sha256(student) == before != state_sha256(result.model)
    assert result.spec is None


def test_a_teacher_may_be_any_callable() -> None:
    asked: list[int] = []

    def teacher(images: torch.Tensor) -> torch.Tensor:
        asked.append(len(images))
        return 10 * images.mean(dim=(2, 3))

    # The pipeline's model answers at random; what the student knows comes from the callable alone.
    result = apply_knowledge_distillation(
        build(mobilenet_spec()), CONTEXT, student=tiny_spec(), teacher=teacher, alpha=1.0, epochs=12, learning_rate=1e-2
    )
    assert sum(asked) == 12 * 96
    assert evaluate(result.model, held_back(), CLASSES).top1_fraction > 0.9


def test_a_student_larger_than_its_teacher_is_refused() -> None:
    with pytest.raises(InputError, match="no larger than its teacher"):
        apply_knowledge_distillation(build(tiny_spec()), CONTEXT, student=mobilenet_spec(), epochs=1)


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"alpha": 1.5}, {"epochs": 0}, {"learning_rate": -1.0}])
def test_bad_settings_are_refused_by_name(options: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        apply_knowledge_distillation(build(mobilenet_spec()), CONTEXT, student=tiny_spec(), **options)
