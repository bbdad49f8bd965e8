"""The compression techniques one by one on the same baseline and the same images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor

from udacisense.base.records import StageRecord, record, write_record
from udacisense.base.tensors import supported_engines
from udacisense.data.images import DataSet
from udacisense.errors import InputError, did_you_mean
from udacisense.measure.counts import count_macs
from udacisense.measure.metrics import mcnemar_p, predict, score, wilson_interval
from udacisense.pipeline import PipelineResult
from udacisense.pipeline.start import Baseline, PipelineOptions, load_baseline, start_pipeline
from udacisense.stages.contract import Kind, StepFunction, kind_of
from udacisense.stages.distill import apply_knowledge_distillation
from udacisense.stages.graph import apply_graph_optimization
from udacisense.stages.prune import apply_magnitude_pruning, apply_structured_pruning
from udacisense.stages.qat import apply_quantization_aware_training
from udacisense.stages.quantize import apply_dynamic_quantization
from udacisense.stages.static import apply_static_quantization
from udacisense.training.compute import Compute
from udacisense.training.types import TrainConfig


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
) -> TechniquesRecord:
    """Run techniques, each alone on the baseline; a finished one is kept and not run again.

    Args:
        baseline: an artifact's folder.
        dataset: the images that the baseline was made for.
        output_dir: each technique keeps its steps in ``output_dir/<name>``; ``techniques.json`` has the figures.
        names: of :data:`TECHNIQUES`; none is all that this host can run.
        options: of them, epochs (of those that train; None: :data:`EPOCHS`), batch size, seed and allow_factory count.
        compute: what training runs on.

    Raises:
        InputError: a name or the data does not fit, or a technique that was asked for needs an engine that is missing.
        StageError: a technique failed.
    """
    chosen = find_techniques(names)
    present = supported_engines()
    missing = [row for row in chosen if row.engine is not None and row.engine not in present]
    if missing and names:
        raise InputError(
            f"{missing[0].name} needs the quantised engine {missing[0].engine}; this host has {', '.join(present)}."
        )
    start = load_baseline(baseline, dataset, allow_factory=options.allow_factory)
    assert start.artifact is not None, "it was loaded from a folder"
    logits, labels = predict(start.model, start.test_batches(dataset))
    expected = logits.argmax(1) == labels
    results: list[TechniqueResult] = []
    figures = start.artifact.baseline
    for row in chosen:
        if row in missing:
            continue
        settings: dict[str, Any] = dict(row.options)
        if row.trains:
            settings["epochs"] = options.epochs if options.epochs is not None else EPOCHS
        pipeline = start_pipeline(row.name, start, dataset, options)
        pipeline.add_step(step_name=row.name, step_function=row.function, **settings)
        found = pipeline.run(compute, output_dir=output_dir / row.name)
        figures = found.baseline
        results.append(_result(row, found, start, dataset, expected))
    answer = TechniquesRecord(
        schema_version=1,
        class_names=dataset.class_names,
        artifact_sha256=start.artifact.sha256,
        baseline=figures,
        baseline_macs=count_macs(start.model, start.signature.input_shape),
        baseline_confusion=score(logits, labels, dataset.class_names).confusion,
        results=tuple(results),
    )
    write_record(output_dir / TechniquesRecord.FILE_NAME, answer)
    return answer


def _result(
    row: Technique, found: PipelineResult, start: Baseline, dataset: DataSet, expected: Tensor
) -> TechniqueResult:
    logits, labels = predict(found.model, start.test_batches(dataset))
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
