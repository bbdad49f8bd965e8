"""What each stage of each pipeline did."""

from __future__ import annotations

from harness.report.blocks import Block, Chapter, Gallery, Part, Prose
from harness.report.collect import Evidence
from harness.report.plots.accuracy import confusion_heat, stage_heat
from harness.report.plots.cascade import cascade_picture, cascade_table
from harness.report.plots.stages import stage_pictures
from harness.report.table import Table
from harness.report.tables import requirements_table, stages_table
from udacisense.base.display import percent
from udacisense.base.records import Scalar
from udacisense.pipeline.recipes import long_name
from udacisense.pipeline.run import RunRecord


def pipelines_chapter(evidence: Evidence) -> Chapter:
    """Return models, then a part a pipeline and a cascade."""
    blocks: list[Block] = [
        stages_table(artifact.baseline, (), title=f"{artifact.name} ({path.parent})")
        for path, artifact in evidence.artifacts
        if not artifact.stages  # no pipeline made it
    ]
    blocks += [
        Part(
            title=f"{long_name(run.name)} in {path.parent}",
            blocks=(
                Gallery(pictures=stage_pictures(run)),
                stages_table(
                    run.baseline, run.stages, time_ratios=run.time_ratios, title="Stages, each against the baseline"
                ),
                _contributions(run),
                requirements_table(run.requirements, title=f"{run.name}: requirements"),
                *_heat(run),
                Part(title="Settings of each stage", blocks=(_settings(run),), is_open=False),
            ),
        )
        for path, run in evidence.runs
    ]
    blocks += [
        Part(
            title=f"{long_name(made.name)} in {path.parent}",
            blocks=(Gallery(pictures=(cascade_picture(made),)), cascade_table(made)),
        )
        for path, made in evidence.cascades
    ]
    blocks += _confusions(evidence)
    return Chapter(anchor="pipelines", title="Models and pipelines", blocks=tuple(blocks))


def _contributions(run: RunRecord) -> Table:
    rows = []
    for before, after in zip((run.baseline, *run.stages), run.stages, strict=False):
        rows.append(
            (
                after.stage,
                f"{(after.file_bytes - before.file_bytes) / 1e6:+.3f} MB",
                f"{after.parameters - before.parameters:+,}",
                f"{after.latency_ms - before.latency_ms:+.2f} ms",
                f"{100 * (after.top1_fraction - before.top1_fraction):+.1f} points",
                f"{after.duration_s:.1f} s",
            )
        )
    return Table(
        title="What each stage contributed",
        columns=("stage", "size", "parameters", "latency", "top-1", "took"),
        rows=tuple(rows),
        notes=("Against the stage before.",),
    )


def _heat(run: RunRecord) -> tuple[Block, ...]:
    made = stage_heat(
        [(stage.stage, stage.per_class) for stage in (run.baseline, *run.stages)], title="Accuracy per class by stage"
    )
    return () if made is None else (made,)


def _settings(run: RunRecord) -> Table:
    rows = tuple((stage.stage, key, _scalar(value)) for stage in run.stages for key, value in stage.config.items())
    return Table(title="Settings", columns=("stage", "setting", "value"), rows=rows)


def _scalar(value: Scalar) -> str | None:
    return None if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _confusions(evidence: Evidence) -> tuple[Block, ...]:
    labels = [artifact.signature.labels for _, artifact in evidence.artifacts]
    labels += [manifest.signature.labels for _, manifest in evidence.bundles]
    if not evidence.evaluations:
        text = (
            "No confusion matrix was recorded. `udacisense evaluate ARTIFACT --data DATA --json > "
            "RUN/baseline.evaluation.json` records one."
        )
        return (Prose(text=text, tone="open"),) if evidence.artifacts else ()
    return tuple(
        confusion_heat(
            evaluation.confusion,
            next((names for names in labels if len(names) == len(evaluation.confusion)), ()),
            title=f"Confusion ({path})",
            figures=f"{evaluation.n_images} images, top-1 {percent(evaluation.top1_fraction)}.",
        )
        for path, evaluation in evidence.evaluations
    )
