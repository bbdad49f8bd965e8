"""The compression techniques one by one on the same baseline and the same images."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from udacisense.base.records import ModelSpec, StageRecord, from_json, record, to_json, write_record
from udacisense.base.tensors import supported_engines
from udacisense.data.batches import evaluation_batches
from udacisense.data.images import DataSet
from udacisense.errors import InputError, did_you_mean
from udacisense.measure.counts import count_macs, count_parameters
from udacisense.measure.estimate import Estimate, seconds_an_image, total
from udacisense.measure.metrics import mcnemar_p, predict, score, wilson_interval
from udacisense.pipeline import PipelineResult
from udacisense.pipeline.search.place import Place
from udacisense.pipeline.start import Baseline, PipelineOptions, load_baseline, start_pipeline
from udacisense.stages.contract import Kind, StepFunction, kind_of
from udacisense.stages.distill import apply_knowledge_distillation, student_spec
from udacisense.stages.graph import apply_graph_optimization
from udacisense.stages.prune import apply_magnitude_pruning, apply_structured_pruning
from udacisense.stages.qat import apply_quantization_aware_training
from udacisense.stages.quantize import apply_dynamic_quantization
from udacisense.stages.static import apply_static_quantization
from udacisense.training.compute import Compute
from udacisense.training.run import PROBE_IMAGES, estimate_training, training_split
from udacisense.training.types import TrainConfig

# What one technique takes beside its training: passes over the test images, latencies by turns, plots. Static int8 also
# tries its blocks one by one, in so many answers; training with rounding in the graph takes so many times a plain step.
_PASSES = 4
_TECHNIQUE_S = 10.0
_SEARCH_ANSWERS = 15_000
_ROUNDED = 8.0


@dataclass(frozen=True, kw_only=True)
class Technique:
    """One row of :data:`TECHNIQUES`: a stage with its settings."""

    name: str
    doc: str
    function: StepFunction
    options: Mapping[str, object] = field(default_factory=dict)
    trains: bool = False  # takes ``epochs``
    engine: str | None = None  # that this host must have


EPOCHS = 4  # of a technique that trains, where none were asked for
_REPORT = TrainConfig(schedule="plateau", channels_last=True)


def _student(name: str, doc: str, **options: object) -> Technique:
    return Technique(
        name=name,
        doc=doc,
        function=apply_knowledge_distillation,
        options={"temperature": 3.0, "alpha": 0.7, "learning_rate": 1e-3, "config": _REPORT, **options},
        trains=True,
    )


def _qat(engine: str) -> Technique:
    return Technique(
        name=f"qat-{engine}",
        doc=f"quantisation-aware training for {engine}",
        function=apply_quantization_aware_training,
        options={"engine": engine},
        trains=True,
        engine=engine,
    )


def _static(engine: str) -> Technique:
    return Technique(
        name=f"static-int8-{engine}",
        doc=f"calibrated int8 of convolutions and linear layers for {engine}",
        function=apply_static_quantization,
        options={"engine": engine},
        engine=engine,
    )


TECHNIQUES: dict[str, Technique] = {
    row.name: row
    for row in (
        Technique(name="dynamic-int8", doc="int8 weights of linear layers", function=apply_dynamic_quantization),
        _student("distillation", "the same features, a classifier of 256", student="p1-student"),
        Technique(name="graph", doc="TorchScript, frozen", function=apply_graph_optimization),
        Technique(name="pruning-one-shot", doc="30 % of the weights to zero", function=apply_magnitude_pruning),
        Technique(
            name="pruning-gradual",
            doc="30 % of the weights to zero while training",
            function=apply_magnitude_pruning,
            trains=True,
        ),
        _qat("fbgemm"),
        _qat("qnnpack"),
        _static("fbgemm"),
        _static("qnnpack"),
        Technique(
            name="structured-pruning",
            doc="30 % of the channels removed",
            function=apply_structured_pruning,
            trains=True,
        ),
        *(
            _student(f"resolution-{edge}", f"distilled at {edge} px", student="p1-student", student_resolution_px=edge)
            for edge in (96, 128, 160, 192)
        ),
        *(
            _student(
                f"width-{width}", f"{width} of the channels, distilled", student="p1-student", student_width_mult=width
            )
            for width in (0.35, 0.5, 0.75)
        ),
    )
}


@record
class TechniqueResult:
    """What one technique did to the baseline."""

    name: str
    doc: str
    figures: StageRecord
    latency_ratio: float  # to the baseline, timed by turns with it
    macs: int | None  # None where the model's form no longer tells them
    mcnemar_p: float  # of the two models' hits on the same images
    top1_interval: tuple[float, float]  # Wilson, 95 %
    confusion: tuple[tuple[int, ...], ...]  # [true][answered]


@record
class TechniquesRecord:
    """``techniques.json``."""

    schema_version: Literal[1]
    class_names: tuple[str, ...]
    artifact_sha256: str
    baseline: StageRecord
    baseline_macs: int
    baseline_confusion: tuple[tuple[int, ...], ...]
    results: tuple[TechniqueResult, ...]

    FILE_NAME: ClassVar[str] = "techniques.json"


def find_techniques(names: Sequence[str]) -> tuple[Technique, ...]:
    """Return rows of :data:`TECHNIQUES` by name, in the table's order; none given is all of them.

    Raises:
        InputError: a name is no row.
    """
    for name in names:
        if name not in TECHNIQUES:
            hint = did_you_mean(name, list(TECHNIQUES))
            raise InputError(f"There is no technique {name!r}; choose of {', '.join(TECHNIQUES)}.{hint}")
    return tuple(row for row in TECHNIQUES.values() if not names or row.name in names)


def run_techniques(
    baseline: Path,
    dataset: DataSet,
    *,
    output_dir: Path,
    names: Sequence[str] = (),
    options: PipelineOptions = PipelineOptions(),  # noqa: B008 - frozen
    compute: Compute = Compute(),  # noqa: B008 - frozen
    seeds: Sequence[int] = (),
    place: Place = Place(),  # noqa: B008 - frozen
) -> tuple[TechniquesRecord, ...]:
    """Run techniques, each alone on the baseline; a finished one is kept and not run again.

    Whoever calls it with the same study takes a part of the techniques and seeds, and gets all the records.

    Args:
        baseline: an artifact's folder.
        dataset: the images that the baseline was made for.
        output_dir: each technique keeps its steps in ``output_dir/<name>``; ``techniques.json`` has the figures. Of
            several seeds each has a folder of its own there, ``seed-<seed>``.
        names: of :data:`TECHNIQUES`; none is all that this host can run.
        options: of them, epochs (of those that train; None: :data:`EPOCHS`), batch size, seed and allow_factory count.
        compute: what training runs on.
        seeds: run with each of these; none is the one of ``options``.
        place: the study that several workers share.

    Returns:
        One record a seed.

    Raises:
        InputError: a name or the data does not fit, or a technique that was asked for needs an engine that is missing.
        StageError: a technique failed.
    """
    from udacisense.pipeline.search.storage import open_study
    from udacisense.pipeline.search.work import share

    rows = _possible(names)
    bench = _Bench(load_baseline(baseline, dataset, allow_factory=options.allow_factory), dataset, compute)
    folders = {seed: output_dir / f"seed-{seed}" if len(seeds) > 1 else output_dir for seed in seeds or (options.seed,)}
    seeded = [replace(options, seed=seed) for seed in folders]
    points = {bench.key(row, one): (row, one, folders[one.seed]) for one in seeded for row in rows}
    study = open_study(place.open(output_dir), "techniques", {})
    answers = share(study, list(points), lambda key: to_json(bench.run_trial(*points[key])), grace_s=place.grace_s)
    done = {key: from_json(_Done, text, source="the study") for key, text in answers.items()}
    return tuple(
        bench.keep([done[key] for key, point in points.items() if point[2] == folder], folder)
        for folder in folders.values()
    )


def _possible(names: Sequence[str]) -> list[Technique]:
    """Return the techniques that were asked for and whose engine is here; by default all of these."""
    chosen, present = find_techniques(names), supported_engines()
    missing = [row for row in chosen if row.engine is not None and row.engine not in present]
    if missing and names:
        raise InputError(
            f"{missing[0].name} needs the quantised engine {missing[0].engine}; this host has {', '.join(present)}."
        )
    return [row for row in chosen if row not in missing]


@record
class _Done:
    """What a trial answers, which travels to the other workers."""

    result: TechniqueResult
    baseline: StageRecord


@dataclass(frozen=True)
class _Bench:
    """The baseline with the images that every technique is measured on."""

    start: Baseline
    dataset: DataSet
    compute: Compute

    @cached_property
    def answers(self) -> tuple[Tensor, Tensor]:
        """The baseline's logits of the test images, and their labels."""
        return predict(self.start.model, evaluation_batches(self.dataset.test, self.start.signature))

    def key(self, row: Technique, options: PipelineOptions) -> str:
        """Return a technique and seed with all that its result depends on, as text."""
        assert self.start.artifact is not None, "it was loaded from a folder"
        whole = (
            f"{self.start.artifact.sha256} {self.dataset.fingerprint} {options.batch_size} {_settings(row, options)}"
        )
        return f"{row.name}, seed {options.seed}, {hashlib.sha256(whole.encode()).hexdigest()[:12]}"

    def run_trial(self, row: Technique, options: PipelineOptions, folder: Path) -> _Done:
        """Run one technique on the baseline, and measure it."""
        pipeline = start_pipeline(row.name, self.start, self.dataset, options)
        pipeline.add_step(step_name=row.name, step_function=row.function, **_settings(row, options))
        found = pipeline.run(self.compute, output_dir=folder / row.name)
        logits, labels = self.answers
        return _Done(
            result=_result(row, found, self.start, self.dataset, logits.argmax(1) == labels), baseline=found.baseline
        )

    def keep(self, done: Sequence[_Done], folder: Path) -> TechniquesRecord:
        """Write ``techniques.json``."""
        assert self.start.artifact is not None, "it was loaded from a folder"
        answer = TechniquesRecord(
            schema_version=1,
            class_names=self.dataset.class_names,
            artifact_sha256=self.start.artifact.sha256,
            baseline=done[-1].baseline if done else self.start.artifact.baseline,
            baseline_macs=count_macs(self.start.model, self.start.signature.input_shape),
            baseline_confusion=score(*self.answers, self.dataset.class_names).confusion,
            results=tuple(row.result for row in done),
        )
        write_record(folder / TechniquesRecord.FILE_NAME, answer)
        return answer


def _settings(row: Technique, options: PipelineOptions) -> dict[str, Any]:
    epochs = options.epochs if options.epochs is not None else EPOCHS
    return {**row.options, "epochs": epochs} if row.trains else dict(row.options)


def _result(
    row: Technique, found: PipelineResult, start: Baseline, dataset: DataSet, expected: Tensor
) -> TechniqueResult:
    logits, labels = predict(found.model, evaluation_batches(dataset.test, start.signature))
    hits, last = logits.argmax(1) == labels, found.stages[-1]
    is_counted = kind_of(found.model) is Kind.EAGER_FLOAT
    return TechniqueResult(
        name=row.name,
        doc=row.doc,
        figures=last,
        latency_ratio=found.time_ratios[-1].value if found.time_ratios else last.latency_ms / found.baseline.latency_ms,
        macs=count_macs(found.model, start.signature.input_shape) if is_counted else None,
        mcnemar_p=mcnemar_p(expected.tolist(), hits.tolist()),
        top1_interval=wilson_interval(int(hits.sum()), len(hits)),
        confusion=score(logits, labels, dataset.class_names).confusion,
    )


def estimate_techniques(
    rows: Sequence[Technique], spec: ModelSpec, baseline: nn.Module, dataset: DataSet, *, epochs: int | None
) -> Estimate:
    """Estimate techniques that run one by one on a baseline: those that train by their epochs, all by their tests.

    A row whose quantised engine this host lacks is left out, as when they run.
    """
    n_train, size_px = len(training_split(dataset)[0]), dataset.size_px
    count = EPOCHS if epochs is None else epochs
    answer_s = seconds_an_image(baseline, (PROBE_IMAGES, 3, size_px, size_px))
    tested_s = _TECHNIQUE_S + _PASSES * answer_s * len(dataset.test)
    kept_bytes = 4 * count_parameters(baseline)
    trained: dict[str, Estimate] = {}  # several techniques train the same network
    costs: list[Estimate] = []
    engines = supported_engines()
    chosen = [row for row in rows if row.engine is None or row.engine in engines]
    for row in chosen:
        searched_s = _SEARCH_ANSWERS * answer_s if row.function is apply_static_quantization else 0.0
        costs.append(Estimate(what=row.name, seconds=tested_s + searched_s, disk_bytes=kept_bytes))
        if not row.trains:
            continue
        student, made = row.options.get("student"), spec
        if student is not None:
            made = student_spec(row.options, num_classes=len(dataset.class_names), size_px=size_px)
        key = f"{made}{student is None}"
        if key not in trained:
            trained[key] = estimate_training(
                made,
                n_images=n_train,
                epochs=count,
                channels_last=student is not None,
                teacher=None if student is None else baseline,
            )
        slower = _ROUNDED if row.function is apply_quantization_aware_training else 1.0
        costs.append(replace(trained[key], seconds=slower * trained[key].seconds))
    names = ", ".join(row.name for row in chosen)
    n_trained = sum(row.trains for row in chosen)
    length = f"{count} epoch{'' if count == 1 else 's'}"
    training = f", {n_trained} of which with {length} of {n_train:,} images" if n_trained else ""
    return total(f"{len(chosen)} technique{'' if len(chosen) == 1 else 's'} ({names}){training}", costs)
