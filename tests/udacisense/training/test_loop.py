from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from training_cases import CLASSES, SIZE_PX, batches, build, coloured, held_back, tiny_spec

from udacisense.data.batches import Batches
from udacisense.errors import TrainingError
from udacisense.measure.metrics import evaluate
from udacisense.training import Distillation, Keep, TrainConfig, train
from udacisense.training.checkpoint import state_sha256
from udacisense.training.types import EpochRecord

FAST = TrainConfig(epochs=2, warmup_epochs=0)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_training_learns(optimizer: str) -> None:
    rate = {"adamw": 1e-2, "sgd": 1e-1}[optimizer]
    config = TrainConfig(epochs=10, learning_rate=rate, weight_decay=1e-4, optimizer=optimizer)
    result = train(build(tiny_spec()), batches(96), config=config, validation=held_back())
    assert not result.model.training
    found = evaluate(result.model, Batches(coloured(60, seed=9), batch_size=60), CLASSES)
    assert found.top1_fraction > 0.9
    losses = [epoch.train_loss for epoch in result.history.epochs]
    assert losses[-1] < losses[0]


def test_training_leaves_the_given_model_and_torchs_generator_alone() -> None:
    model = build(tiny_spec())
    before, drawn = state_sha256(model), torch.get_rng_state()
    result = train(model, batches(), config=FAST)
    assert state_sha256(model) == before
    assert torch.equal(torch.get_rng_state(), drawn)
    assert state_sha256(result.model) != before


def test_the_same_call_gives_the_same_weights_and_another_seed_does_not() -> None:
    config = dataclasses.replace(FAST, channels_last=True, ema_decay=0.9, label_smoothing=0.1)
    first, again, other = (
        state_sha256(train(build(tiny_spec()), batches(), config=c, validation=held_back()).model)
        for c in (config, config, dataclasses.replace(config, seed=1))
    )
    assert first == again
    assert first != other  # dropout draws from the seed


def test_channels_last_changes_speed_and_not_results() -> None:
    outputs = []
    images = next(iter(held_back()))[0]
    for channels_last in (False, True):
        config = dataclasses.replace(FAST, channels_last=channels_last)
        outputs.append(train(build(tiny_spec()), batches(), config=config).model(images).detach())
    assert torch.allclose(outputs[0], outputs[1], atol=1e-3)


def test_the_best_epoch_is_returned_and_not_the_last() -> None:
    # Labels of the later epochs are wrong on purpose: the first epochs must win.
    class Spoilt(Batches):
        def __iter__(self):
            for images, labels in super().__iter__():
                yield images, labels if self.epoch < 9 else (labels + 1) % 3

    config = TrainConfig(epochs=12, learning_rate=1e-2, schedule="constant", warmup_epochs=0)
    spoilt = Spoilt(coloured(96, seed=1), batch_size=16, shuffle=True)
    result = train(build(tiny_spec()), spoilt, config=config, validation=held_back())
    assert len(result.history.epochs) == 12
    assert result.history.best_epoch <= 10
    kept = result.history.epochs[result.history.best_epoch - 1].validation_top1_fraction
    assert evaluate(result.model, held_back(), CLASSES).top1_fraction == kept
    assert result.history.epochs[-1].validation_top1_fraction < kept


def test_weights_that_were_trained_stay_where_no_epoch_is_better(tmp_path: Path) -> None:
    class Wrong(Batches):
        def __iter__(self):
            return ((images, (labels + 1) % 3) for images, labels in super().__iter__())

    config = TrainConfig(epochs=5, learning_rate=1e-2, schedule="constant", warmup_epochs=0)
    trained = train(build(tiny_spec()), batches(), config=config, validation=held_back()).model
    wrong = Wrong(coloured(48, seed=1), batch_size=16, shuffle=True)
    config = dataclasses.replace(config, epochs=2)
    given = {"config": config, "validation": held_back(), "keep": Keep(folder=tmp_path, resume=True)}
    assert train(trained, wrong, **given).history.best_epoch > 0
    for _ in ("taken up from what was kept without the rule", "and with it"):
        kept = train(trained, wrong, is_trained=True, **given)
        assert (kept.history.best_epoch, len(kept.history.epochs)) == (0, 2)
        for name, tensor in trained.state_dict().items():
            assert torch.equal(tensor, kept.model.state_dict()[name])


class ReadsItsVersion(torch.nn.Linear):
    """As torchvision's MNASNet: a state that does not name its release is taken for one of the first."""

    _version = 2

    def _load_from_state_dict(self, state, prefix, metadata, *rest) -> None:
        if metadata.get("version") != 2:
            raise AssertionError("the state has lost its version")
        super()._load_from_state_dict(state, prefix, metadata, *rest)


def test_a_network_whose_modules_read_their_version_is_averaged_and_resumed(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), ReadsItsVersion(3 * SIZE_PX**2, 3))
    config = dataclasses.replace(FAST, ema_decay=0.5)

    class Interrupted(Batches):
        def __iter__(self):
            if self.epoch == 1:
                raise KeyboardInterrupt
            return super().__iter__()

    stopped = Interrupted(coloured(48, seed=1), batch_size=16, shuffle=True, augment=True)
    with pytest.raises(KeyboardInterrupt):
        train(model, stopped, config=config, validation=held_back(), keep=Keep(folder=tmp_path))
    keep = Keep(folder=tmp_path, resume=True)
    resumed = train(model, batches(), config=config, validation=held_back(), keep=keep)
    assert len(resumed.history.epochs) == 2


def test_early_stopping_ends_after_the_patience() -> None:
    # A learning rate of nearly nothing improves nothing after the first epoch.
    config = TrainConfig(
        epochs=50, learning_rate=1e-30, schedule="constant", warmup_epochs=0, early_stopping_patience=2
    )
    model = build(tiny_spec())
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.0
    result = train(model, batches(), config=config, validation=held_back())
    assert result.history.best_epoch == 1
    assert len(result.history.epochs) == 3


def test_the_plateau_schedule_lowers_the_learning_rate() -> None:
    config = TrainConfig(epochs=5, learning_rate=1e-30, schedule="plateau", plateau_patience=0, plateau_factor=0.1)
    model = build(tiny_spec())
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.0
    rates = [e.lr for e in train(model, batches(), config=config, validation=held_back()).history.epochs]
    assert rates[0] == rates[1] == 1e-30
    # ReduceLROnPlateau leaves changes below its eps of 1e-8 alone, so look at a rate above it.
    config = dataclasses.replace(config, learning_rate=1e-6)
    rates = [e.lr for e in train(model, batches(), config=config, validation=_worsening()).history.epochs]
    assert rates[-1] < rates[0]


def _worsening():
    """Validation whose loss rises each time it is read."""

    class Rising:
        scale = 0.0

        def __iter__(self):
            self.scale += 1.0
            images, labels = next(iter(held_back()))
            yield images * self.scale * 10, labels

    return Rising()


def test_averaged_weights_are_validated_and_returned() -> None:
    plain = train(build(tiny_spec()), batches(), config=FAST).model
    frozen = train(build(tiny_spec()), batches(), config=dataclasses.replace(FAST, ema_decay=0.999999)).model
    # The average starts as a copy after the first step and hardly moves: it must differ from the last weights.
    first_step = train(build(tiny_spec()), batches(), config=dataclasses.replace(FAST, epochs=1)).model
    key = "classifier.1.weight"
    moved = (plain.state_dict()[key] - frozen.state_dict()[key]).abs().max()
    assert moved > 10 * torch.finfo(torch.float32).eps
    assert (first_step.state_dict()[key] - frozen.state_dict()[key]).abs().max() < moved


def test_a_loss_that_is_not_finite_names_epoch_step_and_rate() -> None:
    class Poisoned(Batches):
        def __iter__(self):
            for step, (images, labels) in enumerate(super().__iter__()):
                yield images * (float("nan") if self.epoch == 1 and step == 2 else 1), labels

    poisoned = Poisoned(coloured(48, seed=1), batch_size=16)
    config = TrainConfig(epochs=3, learning_rate=2e-3, schedule="constant", warmup_epochs=0)
    with pytest.raises(TrainingError, match=r"nan in epoch 2, step 3, at learning rate 0\.002"):
        train(build(tiny_spec()), poisoned, config=config)


def test_the_teacher_answers_each_augmented_batch_in_eval_mode() -> None:
    seen: list[torch.Tensor] = []

    class Watching(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = build(tiny_spec(), seed=5)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            assert not self.training
            assert not self.inner.training
            assert torch.is_inference_mode_enabled()
            seen.append(images.clone())
            return self.inner(images)

    teacher = Watching().train()
    train(
        build(tiny_spec()),
        batches(),
        config=FAST,
        distillation=Distillation(teacher=teacher, temperature=3.0, alpha=1.0),
    )
    assert teacher.training  # the caller's own module is left as it was
    expected = []
    for epoch in range(2):
        source = batches()
        source.set_epoch(epoch)
        expected += [images for images, _ in source]
    assert len(seen) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(seen, expected, strict=True))


def test_a_student_learns_from_the_teacher_alone() -> None:
    # alpha = 1 and wrong labels: what the student knows in the end is the teacher's.
    def teacher(images: torch.Tensor) -> torch.Tensor:
        return 10 * images.mean(dim=(2, 3))  # the brightest channel is the class

    wrong = coloured(96, seed=1)
    wrong.labels[:] = (wrong.labels + 1) % 3
    result = train(
        build(tiny_spec()),
        Batches(wrong, batch_size=16, shuffle=True),
        config=TrainConfig(epochs=12, learning_rate=1e-2),
        validation=held_back(),
        distillation=Distillation(teacher=teacher, temperature=3.0, alpha=1.0),
    )
    assert evaluate(result.model, held_back(), CLASSES).top1_fraction > 0.9


def test_before_epoch_can_freeze_batch_normalisation() -> None:
    def freeze(model: torch.nn.Module, epoch: int) -> None:
        assert model.training
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()

    result = train(build(tiny_spec()), batches(), config=FAST, before_epoch=freeze)
    means = [v for k, v in result.model.state_dict().items() if k.endswith("running_mean")]
    assert means
    assert all(torch.equal(v, torch.zeros_like(v)) for v in means)


def test_after_epoch_sees_each_kept_epoch_and_can_end_the_run(tmp_path: Path) -> None:
    seen: list[EpochRecord] = []

    def after(epoch: EpochRecord) -> None:
        assert (tmp_path / "checkpoint.safetensors").is_file()
        seen.append(epoch)
        if epoch.epoch == 2:
            raise StopIteration

    config, keep = TrainConfig(epochs=3, warmup_epochs=0), Keep(folder=tmp_path, resume=True)
    with pytest.raises(StopIteration):
        train(build(tiny_spec()), batches(), config=config, validation=held_back(), keep=keep, after_epoch=after)
    assert [epoch.epoch for epoch in seen] == [1, 2]
    whole = train(
        build(tiny_spec()), batches(), config=config, validation=held_back(), keep=keep, after_epoch=seen.append
    )
    assert seen == list(whole.history.epochs), "a resumed run tells the epochs that it trained, each once"


def test_a_torch_dataloader_serves_as_batches() -> None:
    images = coloured(48, seed=1)
    data = torch.utils.data.TensorDataset(images.pixels.float() / 255, images.labels)
    loader = torch.utils.data.DataLoader(data, batch_size=16, shuffle=True)
    first, again = (state_sha256(train(build(tiny_spec()), loader, config=FAST).model) for _ in range(2))
    assert first == again


def test_the_validation_loss_is_plain_cross_entropy() -> None:
    config = dataclasses.replace(FAST, epochs=1, label_smoothing=0.3)
    result = train(build(tiny_spec()), batches(), config=config, validation=held_back())
    images, labels = next(iter(held_back()))
    with torch.no_grad():
        expected = F.cross_entropy(result.model(images), labels).item()
    assert result.history.epochs[0].validation_loss == pytest.approx(expected, rel=1e-4)
