"""Training: one loop for labels, teachers, fine-tuning and quantisation-aware training."""

from udacisense.training.compute import Compute, resolve_device
from udacisense.training.run import fresh_model, train, train_model, training_split
from udacisense.training.supervision import Supervision
from udacisense.training.types import Auxiliary, Distillation, History, Keep, TrainConfig, TrainResult

__all__ = [
    "Auxiliary",
    "Compute",
    "Distillation",
    "History",
    "Keep",
    "Supervision",
    "TrainConfig",
    "TrainResult",
    "fresh_model",
    "resolve_device",
    "train",
    "train_model",
    "training_split",
]
