from __future__ import annotations

import pytest

from udacisense.errors import InputError
from udacisense.pipeline import PIPELINES, find_pipeline
from udacisense.stages import apply_dynamic_quantization, apply_graph_optimization, apply_knowledge_distillation
from udacisense.training import TrainConfig


def test_recipes_have_the_published_settings() -> None:
    p1, p2 = (find_pipeline(name, preset="report") for name in ("p1", "p2"))
    assert [s.function for s in p1.steps] == [
        apply_knowledge_distillation,
        apply_dynamic_quantization,
        apply_graph_optimization,
    ]
    assert [s.function for s in p2.steps] == [apply_knowledge_distillation, apply_graph_optimization]
    settings = {"student": "p1-student", "temperature": 3.0, "alpha": 0.7, "epochs": 15, "learning_rate": 1e-3}
    assert p1.steps[0].options == {**settings, "config": TrainConfig(schedule="plateau")}
    assert p2.steps[0].options == {**settings, "student": "tiny", "temperature": 4.0, "epochs": 30}
    assert find_pipeline("distill_quantize_torchscript") is PIPELINES["p1"]
    assert find_pipeline("aggressive_speed_optimization") is PIPELINES["p2"]
    with pytest.raises(InputError, match=r"p1 .*p2"):
        find_pipeline("p3")
