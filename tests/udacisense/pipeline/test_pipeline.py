from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from training_cases import CLASSES, SIZE_PX, batches, build, coloured, dataset, held_back, mobilenet_spec, tiny_spec

from udacisense.base.records import StageRecord, read_json, write_record
from udacisense.data.images import DataSet, make_signature
from udacisense.errors import InputError, StageError, TrainingError
from udacisense.measure.metrics import evaluate
from udacisense.measure.recording import latencies_by_turns
from udacisense.measure.stats import Interval
from udacisense.models.artifact import load_artifact, save_artifact
from udacisense.pipeline import (
    PIPELINES,
    OptimizationPipeline,
    PipelineOptions,
    PipelineResult,
    RunRecord,
    check_requirements,
    find_pipeline,
    plan_pipeline,
)
from udacisense.pipeline.store import fingerprint_step
from udacisense.stages import (
    StepContext,
    StepResult,
    apply_dynamic_quantization,
    apply_graph_optimization,
    apply_knowledge_distillation,
    apply_quantization_aware_training,
    qat,
)
from udacisense.stages.quantize import quantized_engine
from udacisense.stages.static import static_int8
from udacisense.training import Compute, Supervision, TrainConfig

SPEC = tiny_spec()
CALLS: list[str] = []


def nudge(model: nn.Module, context: StepContext, *, by: float = 1.0) -> StepResult:
    """A user's own step: a copy whose classifier's bias is moved."""
    CALLS.append("nudge")
    copied = build(SPEC)
    copied.load_state_dict(model.state_dict())
    with torch.no_grad():
        copied.classifier[1].bias += by
    return StepResult(model=copied, notes={"moved": by})


def fail(model: nn.Module, context: StepContext, *, how: str = "training") -> StepResult:
    raise {
        "training": TrainingError("the loss is nan"),
        "input": InputError("no such thing"),
        "bug": ZeroDivisionError("division by zero"),
        "disk": OSError(28, "No space left on device", "x.pt"),
    }[how]


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    CALLS.clear()


def pipeline(*, seed: int = 0, data: str = "colours", weights: int = 0) -> OptimizationPipeline:
    return OptimizationPipeline(
        "mine",
        build(SPEC, seed=weights),
        batches(),
        held_back(),
        CLASSES,
        SIZE_PX,
        validation_loader=held_back(),
        spec=SPEC,
        seed=seed,
        data_fingerprint=data,
    )


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


# ---- failures


@pytest.mark.parametrize(
    ("how", "code", "cause"),
    [
        ("training", 1, "the loss is nan"),
        ("input", 2, "no such thing"),
        ("bug", 1, "ZeroDivisionError: division by zero"),
        ("disk", 2, "No space left on device"),
    ],
)
def test_a_failing_step_names_itself_the_cause_and_what_is_kept(
    tmp_path: Path, how: str, code: int, cause: str
) -> None:
    made = pipeline().add_step(step_name="first", step_function=nudge)
    made.add_step(step_name="second", step_function=nudge, by=2.0)
    made.add_step(step_name="broken", step_function=fail, how=how)
    with pytest.raises(StageError) as caught:
        made.run(output_dir=tmp_path)
    message = str(caught.value)
    assert "Step 'broken' (3 of 3) failed" in message
    assert cause in message
    assert f"kept in {tmp_path / 'steps'}: first, second" in message
    assert caught.value.exit_code == code
    assert not (tmp_path / "artifact").exists()
    assert not (tmp_path / "final.pt").exists()


def test_a_failing_step_without_a_folder_says_that_nothing_is_kept() -> None:
    with pytest.raises(StageError, match="nothing is kept"):
        pipeline().add_step(step_name="broken", step_function=fail).run()


def wrong_type(model: nn.Module, context: StepContext) -> StepResult:
    return model  # type: ignore[return-value]


def in_place(model: nn.Module, context: StepContext) -> StepResult:
    with torch.no_grad():
        model.classifier[1].bias += 1
    return StepResult(model=model)


def not_finite(model: nn.Module, context: StepContext) -> StepResult:
    made = nudge(model, context, by=float("nan"))
    return StepResult(model=made.model)


def other_classes(model: nn.Module, context: StepContext) -> StepResult:
    spec = dataclasses.replace(SPEC, options={**SPEC.options, "num_classes": 4})
    return StepResult(model=build(spec), spec=spec)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (wrong_type, "returns a StepResult"),
        (in_place, "changed the weights of the model it was given"),
        (not_finite, "not finite"),
        (other_classes, r"answers \(1, 4\) to one image, not \(1, 3\)"),
    ],
)
def test_a_step_that_breaks_the_contract_is_refused(step, words: str) -> None:
    with pytest.raises(StageError, match=words):
        pipeline().add_step(step_name="bad", step_function=step).run()


def test_steps_in_an_impossible_order_are_refused_before_anything_runs() -> None:
    made = pipeline().add_step(step_name="nudge", step_function=nudge)
    made.add_step(step_name="graph", step_function=apply_graph_optimization)
    made.add_step(step_name="int8", step_function=apply_dynamic_quantization)
    with pytest.raises(InputError, match="'int8' takes a model that is eager float"):
        made.run()
    assert CALLS == []


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


# ---- requirements


def figures(*, file_bytes: int = 1000, latency_ms: float = 10.0, top1: float = 0.887) -> StageRecord:
    return StageRecord(
        stage="s",
        config={},
        duration_s=0.0,
        file_bytes=file_bytes,
        parameters=1,
        nonzero_parameters=1,
        top1_fraction=top1,
        top5_fraction=1.0,
        per_class={},
        latency_ms=latency_ms,
        n_eval_images=1000,
    )


@pytest.mark.parametrize(
    ("final", "passed"),
    [
        (figures(file_bytes=700, latency_ms=5.0, top1=0.837), (True, True, True)),  # each exactly on its limit
        (figures(file_bytes=701, latency_ms=5.01, top1=0.836), (False, False, False)),
        (figures(file_bytes=100, latency_ms=1.0, top1=0.99), (True, True, True)),  # a gain never fails
        (figures(file_bytes=2000, latency_ms=20.0, top1=0.887), (False, False, True)),
    ],
)
def test_requirements_on_and_beside_their_limits(final: StageRecord, passed: tuple[bool, ...]) -> None:
    rows = check_requirements(figures(), final)
    assert tuple(row.passed for row in rows) == passed


def test_requirement_rows_carry_measured_values_and_units() -> None:
    rows = check_requirements(figures(), figures(file_bytes=600, latency_ms=2.5, top1=0.9))
    assert [(r.measured, r.bound, r.limit, r.unit) for r in rows] == [
        (40.0, "at least", 30.0, "%"),
        (75.0, "at least", 50.0, "%"),
        (pytest.approx(-1.3), "at most", 5.0, "points"),
    ]


def test_the_time_requirement_has_the_interval_of_paired_rounds() -> None:
    ratio = Interval(value=0.4, low=0.3, high=0.55, pairs=10)
    time = check_requirements(figures(), figures(latency_ms=9.0), ratio)[1]
    assert (time.measured, time.low, time.high) == (60.0, 45.0, 70.0), "the rounds count, not two lone medians"
    assert time.passed
    assert time.is_in_doubt, "50 % lies between 45 and 70"
    size, alone, lost = check_requirements(figures(), figures(file_bytes=700))
    assert (size.low, size.high, size.is_in_doubt) == (30.0, 30.0, False), "a size is exact, on its limit too"
    assert (alone.low, alone.high) == (None, None)
    assert lost.low is not None


def test_latencies_are_taken_by_turns() -> None:
    order: list[str] = []

    class Named(nn.Module):
        def __init__(self, name: str, work: int) -> None:
            super().__init__()
            self.name, self.work = name, work

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if order[-1:] != [self.name]:
                order.append(self.name)
            return sum((images @ images).sum() for _ in range(self.work))

    slow, fast, faster = latencies_by_turns([Named("a", 60), Named("b", 1), Named("c", 1)], (1, 3, 64, 64))
    assert slow.keys() == fast.keys() == faster.keys(), "each round has all of them"
    assert min(slow.values()) > 0
    assert len(order) >= 20, "many turns, and not one block each"


# ---- pipelines by name


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


@pytest.fixture
def baseline(tmp_path: Path) -> Path:
    save_artifact(
        tmp_path / "baseline",
        name="colours",
        model=build(mobilenet_spec()),
        spec=mobilenet_spec(),
        signature=make_signature(CLASSES, size_px=SIZE_PX),
        baseline=figures(),
        stages=(),
        seed=0,
    )
    return tmp_path / "baseline"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "stages"), [("p1", ("distill", "static-int8", "graph")), ("p2", ("distill", "graph"))]
)
def test_a_pipeline_by_name_from_a_baseline_on_disk(tmp_path: Path, baseline: Path, name: str, stages) -> None:
    student = {"p1": mobilenet_spec("p1-student"), "p2": tiny_spec()}[name]
    options = PipelineOptions(student=student, epochs=1, batch_size=16)
    planned = plan_pipeline(name, baseline=baseline, dataset=dataset(), options=options)
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


def test_what_does_not_fit_is_refused_before_training(tmp_path: Path, baseline: Path) -> None:
    data = dataset()
    renamed = dataclasses.replace(data, class_names=("a", "b", "c"))
    with pytest.raises(InputError, match="has the classes"):
        plan_pipeline("p1", baseline=baseline, dataset=renamed)
    with pytest.raises(InputError, match="engine 'tpu'"):
        plan_pipeline("p1", baseline=baseline, dataset=data, options=PipelineOptions(engine="tpu"))
    with pytest.raises(InputError, match="no folder"):
        plan_pipeline("p1", baseline=tmp_path / "nowhere", dataset=data)


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


@pytest.mark.slow
def test_a_student_of_its_own_teacher_is_taken_up_whatever_baseline_and_test_images_are(tmp_path: Path) -> None:
    data, teacher = dataset(), tmp_path / "teacher"
    save_artifact(
        teacher,
        name="teacher",
        model=build(mobilenet_spec(), seed=5),
        spec=mobilenet_spec(),
        signature=make_signature(CLASSES, size_px=SIZE_PX),
        baseline=figures(),
        stages=(),
        seed=0,
    )
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
