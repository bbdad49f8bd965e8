"""Which student and which steps a pipeline takes for a baseline that is no preset."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from training_cases import dataset

from udacisense.base.records import Artifact, ModelSpec, StageRecord
from udacisense.data.images import make_signature
from udacisense.errors import InputError
from udacisense.measure.counts import count_parameters
from udacisense.models.artifact import load_artifact
from udacisense.models.build import build_model, preset
from udacisense.pipeline.plan import choose_student, plan_pipeline
from udacisense.pipeline.recipes import find_pipeline
from udacisense.pipeline.start import PipelineOptions
from udacisense.stages.distill import select_weights
from udacisense.training.supervision import Supervision

NAME = "torchvision/shufflenet_v2_x0_5"


def baseline(spec: ModelSpec) -> Artifact:
    figures = StageRecord(
        stage="baseline",
        config={},
        duration_s=1.0,
        file_bytes=1,
        parameters=1,
        nonzero_parameters=1,
        top1_fraction=0.5,
        top5_fraction=0.5,
        per_class={},
        latency_ms=1.0,
        n_eval_images=1,
    )
    return Artifact(
        schema_version=1,
        name="baseline",
        path="model.safetensors",
        sha256="0" * 64,
        git_commit=None,
        seed=0,
        model=spec,
        signature=make_signature(("a", "b", "c"), size_px=32),
        baseline=figures,
        stages=(),
    )


def student(spec: ModelSpec, name: str | None = None, px: int | None = None, **options: float) -> ModelSpec | None:
    return choose_student(find_pipeline("p1"), baseline(spec), student=name, resolution_px=px, options=options)


def test_p1_of_a_librarys_network_is_that_network_at_a_lower_resolution() -> None:
    spec = preset(NAME, num_classes=3, size_px=32)
    found = student(spec)
    assert found is not None
    assert found.options["resolution_px"] == 128
    larger, shapes = build_model(spec).state_dict(), {k: v.shape for k, v in build_model(found).state_dict().items()}
    assert select_weights(larger, shapes) is not None  # it starts from the baseline's weights
    assert student(spec, px=96).options["resolution_px"] == 96  # type: ignore[union-attr]


def test_a_student_that_is_asked_for_is_taken_with_its_options() -> None:
    spec = preset(NAME, num_classes=3, size_px=32)
    found = student(spec, "torchvision/mobilenet_v3_small", width_mult=0.5)
    expected = {"num_classes": 3, "resolution_px": 224, "size_px": 32, "width_mult": 0.5}
    assert found == ModelSpec(architecture="torchvision/mobilenet_v3_small", options=expected)
    assert student(preset("baseline")) is None  # the recipe's own


@pytest.mark.slow
def test_p1_of_a_users_own_network_prunes_it_and_leaves_an_artifact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "their_network", raising=False)
    (tmp_path / "their_network.py").write_text(
        "from udacisense.models.build import build_model, preset\n"
        "def build():\n    return build_model(preset('tiny', num_classes=3, size_px=16, resolution_px=16))\n"
    )
    spec = ModelSpec(architecture="their_network:build", options={})
    planned = plan_pipeline(
        "p1", baseline=(build_model(spec), spec), dataset=dataset(), options=PipelineOptions(epochs=1)
    )
    assert [step.name for step in planned._steps] == ["prune", "static-int8", "graph"]
    assert planned._steps[0].options == {"epochs": 1}
    planned.run(output_dir=tmp_path / "p1")
    kept, model = load_artifact(tmp_path / "p1" / "artifact", allow_factory="their_network:build")
    assert count_parameters(model) == kept.stages[0].parameters < count_parameters(build_model(spec))
    planned.run(output_dir=tmp_path / "p1")  # and goes on after what is finished


def test_planning_opens_no_transfer_image(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "broken.jpg").write_text("no image")
    spec = preset("p1-slim", num_classes=3, size_px=16, resolution_px=32)
    options = PipelineOptions(supervision=Supervision(transfer=tmp_path / "photos"))
    planned = plan_pipeline("p2", baseline=(build_model(spec), spec), dataset=dataset(), options=options)
    with pytest.raises(InputError, match=r"broken\.jpg cannot be read"):
        planned.run(output_dir=tmp_path / "run")
