from __future__ import annotations

import hashlib
import json

from udacisense.pipeline.store import fingerprint_step
from udacisense.stages import apply_knowledge_distillation
from udacisense.training import Compute, TrainConfig


def test_a_finished_step_of_an_earlier_version_is_recognised() -> None:
    """What version 0.1.0 hashed, written out: a new setting must not change it where it is not used."""
    options = {"student": "tiny", "epochs": 80, "config": TrainConfig(channels_last=True, ema_decay=0.995)}
    settings = {
        "epochs": 30,
        "learning_rate": 1e-3,
        "optimizer": "adamw",
        "weight_decay": 1e-2,
        "momentum": 0.9,
        "schedule": "cosine",
        "warmup_epochs": 1.0,
        "plateau_factor": 0.5,
        "plateau_patience": 2,
        "label_smoothing": 0.0,
        "early_stopping_patience": None,
        "select_by": "top1",
        "ema_decay": 0.995,
        "channels_last": True,
        "device": "cpu",
        "seed": 0,
    }
    plain = {"student": "tiny", "epochs": 80, "config": {"TrainConfig": settings}}
    name = "udacisense.stages.distill.apply_knowledge_distillation"
    expected = hashlib.sha256(json.dumps(["distill", name, plain, "before cpu"], sort_keys=True).encode()).hexdigest()
    found = fingerprint_step("distill", apply_knowledge_distillation, options, inputs="before cpu")
    assert found == expected
    elsewhere = {**options, "config": TrainConfig(channels_last=True, ema_decay=0.995, compute=Compute(device="mps"))}
    assert fingerprint_step("distill", apply_knowledge_distillation, elsewhere, inputs="before cpu") == expected
