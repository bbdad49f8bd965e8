"""A pipeline's interface, what it keeps, and what a rerun takes up."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from pipeline_cases import CALLS, SPEC, fail, nudge, pipeline
from safetensors.torch import load_file
from training_cases import CLASSES, SIZE_PX, batches, build, held_back, mobilenet_spec, tiny_spec

from udacisense.base.records import read_json, write_record
from udacisense.errors import InputError, StageError
from udacisense.measure.metrics import evaluate
from udacisense.models.artifact import load_artifact
from udacisense.pipeline import OptimizationPipeline, PipelineResult, RunRecord, check_requirements
from udacisense.stages import (
    apply_dynamic_quantization,
    apply_graph_optimization,
    apply_knowledge_distillation,
    apply_quantization_aware_training,
    qat,
)
from udacisense.stages.quantize import quantized_engine
from udacisense.stages.static import static_int8


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    CALLS.clear()


def nudged(*, by: float = 1.0, **surroundings) -> OptimizationPipeline:
    made = pipeline(**surroundings).add_step(step_name="nudge", step_function=nudge, by=by)
    made.add_step(step_name="int8", step_function=apply_dynamic_quantization)
    return made.add_step(step_name="graph", step_function=apply_graph_optimization)


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory) -> tuple[Path, PipelineResult]:
    folder = tmp_path_factory.mktemp("finished")
    return folder, nudged().run(output_dir=folder)


@pytest.fixture
def finished(finished_once, tmp_path: Path) -> tuple[Path, PipelineResult]:
    """A folder with a whole run in it, and what that run returned."""
    shutil.copytree(finished_once[0], tmp_path / "run")
    CALLS.clear()
    return tmp_path / "run", finished_once[1]


# ---- the interface and its records


def test_the_published_interface_runs_without_an_output_folder() -> None:
    made = OptimizationPipeline("mine", build(SPEC), batches(), held_back(), CLASSES, (1, 3, SIZE_PX, SIZE_PX))
    made.add_step(
        step_name="distill", step_function=apply_knowledge_distillation, student=tiny_spec(), epochs=1, temperature=4.0
    )
    made.add_step(step_name="graph", step_function=apply_graph_optimization)
    result = made.run(device="cpu")
    assert [r.stage for r in result.stages] == ["distill", "graph"]
    assert result.artifact is None
    assert isinstance(result.model, torch.jit.ScriptModule)
    assert result.stages[0].config["temperature"] == 4.0


def test_each_record_tells_what_the_stage_left(finished) -> None:
    folder, result = finished
    baseline, (first, int8, graph) = result.baseline, result.stages
    total = sum(p.numel() for p in build(SPEC).parameters())
    assert {r.parameters for r in (baseline, first, int8, graph)} == {total}
    assert first.config == {"by": 1.0, "moved": 1.0}
    assert first.file_bytes == baseline.file_bytes
    assert int8.config["layers_int8"] == 1
    assert graph.file_bytes == (folder / "final.pt").stat().st_size
    found = evaluate(result.model, held_back(), CLASSES)
    assert (graph.top1_fraction, graph.per_class) == (found.top1_fraction, found.per_class)
    assert graph.n_eval_images == 24
    assert all(r.latency_ms > 0 for r in (baseline, first, int8, graph))
    assert result.requirements == check_requirements(baseline, graph, result.time_ratios[-1])
    assert len(result.time_ratios) == len(result.stages)


def test_what_is_kept_on_disk_is_what_was_returned(finished) -> None:
    folder, result = finished
    artifact, master = load_artifact(folder / "artifact")
    assert artifact == result.artifact
    assert artifact.confidence is not None
    assert (artifact.baseline, artifact.stages) == (result.baseline, result.stages)
    # The master is the last float32 model: the exporters quantise and trace it themselves.
    expected = build(SPEC).classifier[1].bias + 1
    assert torch.equal(master.classifier[1].bias, expected)
    loaded = torch.jit.load(folder / "final.pt")
    images = next(iter(held_back()))[0]
    with torch.inference_mode():
        assert torch.equal(loaded(images), result.model(images))
    figures = read_json(RunRecord, folder / "result.json")
    assert (figures.baseline, figures.stages, figures.requirements) == (
        result.baseline,
        result.stages,
        result.requirements,
    )
    assert not (folder / "work").exists()


def test_the_baseline_is_left_alone() -> None:
    model = build(SPEC)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    made = OptimizationPipeline("mine", model, batches(), held_back(), CLASSES, SIZE_PX)
    made.add_step(step_name="graph", step_function=apply_graph_optimization).run()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


# ---- resuming


def test_a_rerun_takes_every_step_and_every_figure_from_disk(finished) -> None:
    folder, first = finished
    files = {p: p.stat().st_mtime_ns for p in (folder / "steps").rglob("*")}
    again = nudged().run(output_dir=folder)
    assert CALLS == []
    assert (again.baseline, again.stages) == (first.baseline, first.stages)
    assert {p: p.stat().st_mtime_ns for p in (folder / "steps").rglob("*")} == files
    images = next(iter(held_back()))[0]
    with torch.inference_mode():
        assert torch.equal(again.model(images), first.model(images))


@pytest.mark.parametrize(
    "change", [{"by": 2.0}, {"seed": 1}, {"data": "others"}, {"weights": 1}], ids=lambda c: next(iter(c))
)
def test_another_option_seed_data_or_baseline_is_done_again(finished, change: dict[str, object]) -> None:
    folder, _ = finished
    result = nudged(**change).run(output_dir=folder)
    assert CALLS == ["nudge"]
    assert result.stages[0].config["by"] == change.get("by", 1.0)


def test_a_run_that_was_kept_under_another_name_is_taken_up_and_bears_this_one(finished) -> None:
    folder, first = finished
    path = folder / RunRecord.FILE_NAME
    record = read_json(RunRecord, path)
    write_record(path, dataclasses.replace(record, name="nudging_as_0_1_0_called_it"))
    again = nudged().run(output_dir=folder)
    assert CALLS == []
    assert read_json(RunRecord, path) == record
    assert again.artifact is not None
    assert again.artifact.name == record.name
    assert again.stages == first.stages


def test_a_changed_later_step_keeps_the_earlier_ones(finished) -> None:
    folder, _ = finished
    made = pipeline().add_step(step_name="nudge", step_function=nudge, by=1.0)
    made.add_step(step_name="graph", step_function=apply_graph_optimization)
    result = made.run(output_dir=folder)
    assert CALLS == []
    assert [r.stage for r in result.stages] == ["nudge", "graph"]
    # A float graph, though an int8 one lay there under the same name.
    assert "quantized::linear_dynamic" not in str(result.model.inlined_graph)


def test_without_resume_everything_is_done_again(finished) -> None:
    folder, _ = finished
    nudged().run(output_dir=folder, resume=False)
    assert CALLS == ["nudge"]


def test_damaged_weights_are_noticed_and_made_again(finished) -> None:
    folder, first = finished
    path = folder / "steps" / "01-nudge" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    again = nudged().run(output_dir=folder)
    assert CALLS == ["nudge"]
    assert again.stages[-1].top1_fraction == first.stages[-1].top1_fraction


def test_a_run_that_ended_before_the_graph_packs_int8_again_and_goes_on(tmp_path: Path, finished_once) -> None:
    CALLS.clear()
    made = pipeline().add_step(step_name="nudge", step_function=nudge, by=1.0)
    made.add_step(step_name="int8", step_function=apply_dynamic_quantization)
    with pytest.raises(StageError):
        made.add_step(step_name="graph", step_function=fail).run(output_dir=tmp_path)
    assert not list((tmp_path / "steps" / "02-int8").glob("model*"))
    resumed = nudged().run(output_dir=tmp_path)
    assert CALLS == ["nudge"]
    fresh = finished_once[1]
    images = next(iter(held_back()))[0]
    with torch.inference_mode():
        assert torch.equal(resumed.model(images), fresh.model(images))


def test_int8_that_was_trained_is_kept_with_its_weights_and_its_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made() -> OptimizationPipeline:
        learning = pipeline().add_step(
            step_name="qat", step_function=apply_quantization_aware_training, epochs=1, max_float_blocks=0
        )
        return learning.add_step(step_name="graph", step_function=apply_graph_optimization)

    first = made().run(output_dir=tmp_path)
    shutil.rmtree(tmp_path / "steps" / "02-graph")
    monkeypatch.setattr(qat, "train", lambda *_, **__: pytest.fail("it is trained again"))
    again = made().run(output_dir=tmp_path)
    images = next(iter(held_back()))[0]
    with torch.inference_mode():
        assert torch.equal(again.model(images), first.model(images))
    _, master = load_artifact(tmp_path / "artifact")
    assert not torch.equal(master.classifier[1].bias, build(SPEC).classifier[1].bias)
    (recipe,) = (tmp_path / "artifact").glob("static-int8-*.safetensors")
    engine = recipe.stem.removeprefix("static-int8-")
    packed = static_int8(master, engine, example=images[:1], activations=load_file(recipe))
    with torch.inference_mode(), quantized_engine(engine):
        assert torch.equal(packed(images), first.model(images))


def test_a_distillation_interrupted_in_an_epoch_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    def made(source) -> OptimizationPipeline:
        built = OptimizationPipeline(
            "mine", build(SPEC), source, held_back(), CLASSES, SIZE_PX, spec=SPEC, data_fingerprint="colours"
        )
        return built.add_step(
            step_name="distill", step_function=apply_knowledge_distillation, student=tiny_spec(), epochs=3
        )

    class Watched(type(batches())):
        stop_at = 99
        epochs: list[int]  # training looks at a copy, which shares it

        def __iter__(self):
            self.epochs.append(self.epoch)
            if self.epoch == self.stop_at:
                raise KeyboardInterrupt
            return super().__iter__()

    def source(stop_at: int) -> Watched:
        plain = batches()
        watched = Watched(plain.images, batch_size=16, shuffle=True, augment=True)
        watched.stop_at, watched.epochs = stop_at, []
        return watched

    with pytest.raises(KeyboardInterrupt):
        made(source(2)).run(output_dir=tmp_path / "a")
    second = source(99)
    resumed = made(second).run(output_dir=tmp_path / "a")
    assert second.epochs == [2]
    whole = made(source(99)).run(output_dir=tmp_path / "b")
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[key])
    history = json.loads((tmp_path / "a" / "steps" / "01-distill" / "history.json").read_text())
    assert len(history["epochs"]) == 3


def test_no_step_is_kept_without_a_data_fingerprint(tmp_path: Path) -> None:
    made = OptimizationPipeline("mine", build(SPEC), batches(), held_back(), CLASSES, SIZE_PX)
    made.add_step(step_name="graph", step_function=apply_graph_optimization)
    with pytest.raises(InputError, match="data_fingerprint"):
        made.run(output_dir=tmp_path)


def test_an_option_without_a_fingerprint_is_refused_when_steps_are_kept(tmp_path: Path) -> None:
    made = pipeline().add_step(
        step_name="distill",
        step_function=apply_knowledge_distillation,
        student=tiny_spec(),
        teacher=lambda images: images,
    )
    with pytest.raises(StageError, match=r"distill\.teacher is a function") as caught:
        made.run(output_dir=tmp_path)
    assert caught.value.exit_code == 2


# ---- what is refused before anything runs


@pytest.mark.parametrize("name", ["", "baseline", "a/b", "../x", "a b"])
def test_a_step_name_must_be_a_plain_file_name(name: str) -> None:
    with pytest.raises(InputError, match="step cannot be called"):
        pipeline().add_step(step_name=name, step_function=nudge)


def test_unknown_options_double_names_and_no_steps_are_refused() -> None:
    made = pipeline().add_step(step_name="nudge", step_function=nudge)
    with pytest.raises(InputError, match="no option 'amount'; it takes by"):
        made.add_step(step_name="other", step_function=nudge, amount=1)
    with pytest.raises(InputError, match="already has a step"):
        made.add_step(step_name="nudge", step_function=nudge)
    with pytest.raises(InputError, match="no steps"):
        pipeline().run()


def test_a_spec_of_another_architecture_is_refused() -> None:
    with pytest.raises(InputError, match="another architecture"):
        OptimizationPipeline("mine", build(SPEC), batches(), held_back(), CLASSES, SIZE_PX, spec=mobilenet_spec())


@pytest.mark.parametrize("size", [(1, 16, 16), (1, 1, 16, 16), (3, 16, 8), (16, 16)])
def test_an_input_size_that_is_no_square_rgb_image_is_refused(size: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="input size"):
        OptimizationPipeline("mine", build(SPEC), batches(), held_back(), CLASSES, size)
