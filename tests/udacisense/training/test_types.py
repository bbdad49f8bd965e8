from __future__ import annotations

import pytest

from udacisense.errors import InputError
from udacisense.training import TrainConfig
from udacisense.training.types import EpochRecord, best_epoch


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"optimizer": "adam"},
        {"schedule": "step"},
        {"label_smoothing": 1.0},
        {"ema_decay": 1.0},
        {"early_stopping_patience": 0},
        {"seed": -1},
        {"weight_decay": -1.0},
        {"plateau_factor": 1.0},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused_by_name(change: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(change))):
        TrainConfig(**change)  # type: ignore[arg-type]


def epoch(number: int, top1: float | None, loss: float | None) -> EpochRecord:
    return EpochRecord(
        epoch=number, train_loss=1.0, validation_loss=loss, validation_top1_fraction=top1, lr=1.0, duration_s=1.0
    )


def test_the_best_epoch_has_the_highest_top1_then_the_lowest_loss_then_is_the_first() -> None:
    assert best_epoch([epoch(1, 0.5, 1.0), epoch(2, 0.6, 2.0), epoch(3, 0.6, 1.5), epoch(4, 0.6, 1.5)]) == 3
    assert best_epoch([epoch(1, None, None), epoch(2, None, None)]) == 2
    assert best_epoch([epoch(1, 0.7, 1.0), epoch(2, 0.6, 0.5), epoch(3, 0.5, 0.9)], select_by="loss") == 2
    assert best_epoch([]) is None
