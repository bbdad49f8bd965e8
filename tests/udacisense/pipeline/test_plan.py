"""Which student and which steps a pipeline takes, and whole runs of the ones that have a name."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
from pipeline_cases import SPEC
from training_cases import build, coloured, dataset, figures, mobilenet_spec, small_baseline, tiny_spec

from udacisense.base.records import Artifact, ModelSpec
from udacisense.data.images import DataSet, make_signature
from udacisense.errors import InputError
from udacisense.measure.counts import count_parameters
from udacisense.models.artifact import load_artifact
from udacisense.models.build import build_model, preset
from udacisense.pipeline import PipelineResult
from udacisense.pipeline.plan import choose_student, plan_pipeline
from udacisense.pipeline.recipes import find_pipeline
from udacisense.pipeline.start import PipelineOptions
from udacisense.stages.distill import select_weights
from udacisense.training.supervision import Supervision

NAME = "torchvision/shufflenet_v2_x0_5"


def baseline(spec: ModelSpec) -> Artifact:
    return Artifact(
        schema_version=1,
        name="baseline",
        path="model.safetensors",
        sha256="0" * 64,
        git_commit=None,
        seed=0,
        model=spec,
        signature=make_signature(("a", "b", "c"), size_px=32),
        baseline=figures(),
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "stages"), [("p1", ("distill", "static-int8", "graph")), ("p2", ("distill", "graph"))]
)
def test_a_pipeline_by_name_from_a_baseline_on_disk(tmp_path: Path, name: str, stages) -> None:
    student = {"p1": mobilenet_spec("p1-student"), "p2": tiny_spec()}[name]
    options = PipelineOptions(student=student, epochs=1, batch_size=16)
    planned = plan_pipeline(name, baseline=small_baseline(tmp_path / "b"), dataset=dataset(), options=options)
    artifact = planned.run(output_dir=tmp_path / "run").artifact
    assert tuple(r.stage for r in artifact.stages) == stages
    assert artifact.model == student
    assert artifact.baseline.parameters == sum(p.numel() for p in build(mobilenet_spec()).parameters())
    assert (tmp_path / "run" / "final.pt").is_file()
    assert load_artifact(tmp_path / "run" / "artifact")[0] == artifact


def test_a_baseline_in_memory_serves_too(tmp_path: Path) -> None:
    options = PipelineOptions(student=tiny_spec(), epochs=1)
    planned = plan_pipeline("p2", baseline=(build(SPEC), SPEC), dataset=dataset(), options=options)
    assert planned.run(output_dir=tmp_path).artifact.model == tiny_spec()


def test_what_does_not_fit_is_refused_before_training(tmp_path: Path) -> None:
    data, baseline = dataset(), small_baseline(tmp_path / "baseline")
    renamed = dataclasses.replace(data, class_names=("a", "b", "c"))
    with pytest.raises(InputError, match="has the classes"):
        plan_pipeline("p1", baseline=baseline, dataset=renamed)
    with pytest.raises(InputError, match="engine 'tpu'"):
        plan_pipeline("p1", baseline=baseline, dataset=data, options=PipelineOptions(engine="tpu"))
    with pytest.raises(InputError, match="no folder"):
        plan_pipeline("p1", baseline=tmp_path / "nowhere", dataset=data)


@pytest.mark.slow
def test_a_student_of_its_own_teacher_is_taken_up_whatever_baseline_and_test_images_are(tmp_path: Path) -> None:
    data, teacher = dataset(), small_baseline(tmp_path / "teacher", seed=5)
    options = PipelineOptions(
        student=tiny_spec(), student_init="none", epochs=1, batch_size=16, supervision=Supervision(teacher=teacher)
    )

    def run(baseline_seed: int, used: DataSet) -> tuple[PipelineResult, float]:
        model = build(mobilenet_spec(), seed=baseline_seed)
        made = plan_pipeline("p2", baseline=(model, mobilenet_spec()), dataset=used, options=options)
        result = made.run(output_dir=tmp_path / "run")
        return result, (tmp_path / "run" / "steps" / "01-distill" / "model.safetensors").stat().st_mtime

    first, written = run(1, data)
    others = dataclasses.replace(data, test=coloured(45, seed=8))
    second, written_again = run(2, others)
    assert written_again == written, "it was trained again"
    assert [stage.n_eval_images for stage in second.stages] == [45, 45]
    assert [stage.n_eval_images for stage in first.stages] == [30, 30]
    assert second.baseline.n_eval_images == 45
    third, _ = run(2, dataclasses.replace(others, train=coloured(60, seed=4)))
    assert third.stages[0].config == second.stages[0].config
    assert (tmp_path / "run" / "steps" / "01-distill" / "model.safetensors").stat().st_mtime > written
