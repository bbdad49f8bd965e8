"""``udacisense compress``: a compression pipeline on a trained baseline."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from udacisense.cli.options import (
    OutputPath,
    allow_factory_option,
    allowing,
    found_beside_the_user,
    model_options,
    names_of,
)
from udacisense.cli.output import Choice, announce, dry_run_option, emit_json, json_option, next_command, say, show
from udacisense.cli.training_options import compute_options, supervision_options

if TYPE_CHECKING:
    from udacisense.base.records import Scalar
    from udacisense.training import Compute, Supervision


@click.command("compress", short_help="Run a compression pipeline on a trained baseline.")
@click.option(
    "--pipeline",
    required=True,
    help="p1, p2, p2-int8 or p3 (p2 and p1 as a cascade); or a full name, as distill_quantize_torchscript.",
    shell_complete=names_of("udacisense.pipeline.recipes", "PIPELINES", "p3"),
)
@click.option(
    "--preset",
    "settings",
    default="default",
    show_default=True,
    help="default, or report: the stages and settings that p1 and p2 started from.",
    shell_complete=names_of("udacisense.pipeline.recipes", "PRESETS"),
)
@click.option("--baseline", required=True, type=click.Path(path_type=Path), help="Artifact folder that 'train' wrote.")
@click.option("--data", required=True, help="'cifar100' (downloaded), or a folder with {train,test}/<class>/*.")
@click.option(
    "--student",
    callback=found_beside_the_user,
    help="p1-student, p1-slim, tiny, p2-student, a line of blocks or LIBRARY/NAME; the pipeline's by default.",
    shell_complete=names_of("udacisense.models.build", "PRESETS"),
)
@model_options("--student-option")
@click.option("--resolution", "resolution_px", type=int, help="Edge that the student sees; its preset's by default.")
@click.option("--epochs", type=int, help="Epochs of distillation; the pipeline's by default.")
@click.option("--lr", "learning_rate", type=float, help="Of distillation; the pipeline's by default.")
@click.option("--student-init", help="The student's initial weights: auto, none, pretrained or a .safetensors file.")
@click.option("--optimizer", type=Choice(["adamw", "sgd"]), help="Of distillation; the pipeline's by default.")
@click.option("--weight-decay", type=float, help="Of distillation; the pipeline's by default.")
@click.option("--ema", "ema_decay", type=float, help="Decay of averaged weights; the pipeline's by default.")
@supervision_options
@click.option("--batch-size", default=64, show_default=True)
@click.option("--engine", help="Quantised engine of dynamic int8: fbgemm, x86 or qnnpack.")
@compute_options
@click.option("--seed", default=0, show_default=True)
@allow_factory_option
@click.option("-o", "--output", required=True, type=OutputPath(is_folder=True), help="Folder of the run.")
@click.option("--resume/--no-resume", default=True, show_default=True, help="Take finished steps from OUTPUT.")
@dry_run_option
@json_option
def command(
    *,
    pipeline: str,
    settings: str,
    baseline: Path,
    data: str,
    student: str | None,
    model_options: dict[str, Scalar],
    resolution_px: int | None,
    allow_factory: str | None,
    output: Path,
    resume: bool,
    supervision: Supervision,
    compute: Compute,
    dry_run: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Run a pipeline and keep each step, OUTPUT/artifact and OUTPUT/final.pt.

    p3 runs p2 and p1 and joins their models: OUTPUT/cascade, beside OUTPUT/p2 and OUTPUT/p1.

    After each step its size, parameters, latency and accuracy are measured. Finished steps are kept: the same command
    goes on after Ctrl-C or a crash. The requirement table says what was reached; 'gate' turns it into an exit code.
    """
    from udacisense.cli.loading import load_data, say_answers
    from udacisense.models.artifact import load_artifact
    from udacisense.pipeline import PipelineOptions, find_pipeline, plan_pipeline
    from udacisense.pipeline.plan import choose_student, estimate_pipeline
    from udacisense.pipeline.recipes import CASCADES
    from udacisense.training.run import images_an_epoch

    if pipeline in CASCADES:
        _join(CASCADES[pipeline], output)
        return
    recipe = find_pipeline(pipeline, preset=settings)
    kept, baseline_model = load_artifact(baseline, allow_factory=allow_factory)
    dataset = load_data(data, size_px=kept.signature.size_px)
    if ":" in kept.model.architecture:
        say_answers(baseline_model, dataset.size_px)
    spec = choose_student(recipe, kept, student=student, resolution_px=resolution_px, options=model_options)
    supervision = replace(supervision, allow_factory=allow_factory)
    options = PipelineOptions(student=spec, supervision=supervision, allow_factory=allow_factory, **asked)
    planned = plan_pipeline(recipe.name, preset=settings, baseline=baseline, dataset=dataset, options=options)
    n_images = images_an_epoch(dataset, supervision)
    announce(estimate_pipeline(recipe, spec, baseline_model, n_images=n_images, epochs=options.epochs), output)
    if dry_run:
        return
    planned.run(compute, output_dir=output, resume=resume)
    _answer(output, dataset.name, *allowing(kept.model.architecture), "--data", data, as_json=as_json)


def _answer(output: Path, data_name: str, *given: str, as_json: bool) -> None:
    """Print a run's figures, and the next command, which takes what is given too."""
    from harness.report.tables import requirements_table, stages_table
    from udacisense.base.records import read_json
    from udacisense.pipeline import RunRecord
    from udacisense.pipeline.recipes import long_name

    result = read_json(RunRecord, output / RunRecord.FILE_NAME)
    if as_json:
        emit_json(result)
        return
    say(f"{long_name(result.name)} on {result.baseline.n_eval_images} test images of {data_name}:\n")
    show(stages_table(result.baseline, result.stages, time_ratios=result.time_ratios))
    say()
    show(requirements_table(result.requirements))
    if (output / "artifact").is_dir():
        next_command("udacisense", "export", output / "artifact", *given, "-o", output / "bundle")


def _join(members: Sequence[str], output: Path) -> None:
    """Run this command for the pipeline of each member, with the same options, and join what they made."""
    from udacisense.cli import cascade
    from udacisense.errors import InputError

    context = click.get_current_context()
    given = context.params
    if given["student"] or given["model_options"] or given["resolution_px"]:
        raise InputError(
            f"{given['pipeline']} trains the own student of {' and of '.join(members)}: leave --student, "
            "--student-option and --resolution out, or run the two pipelines and join them by 'udacisense cascade'."
        )
    apart = contextlib.redirect_stdout(sys.stderr) if given["as_json"] else contextlib.nullcontext()
    with apart:  # one command, one answer
        for name in members:
            context.invoke(command, **given | {"pipeline": name, "output": output / name, "as_json": False})
    if not given["dry_run"]:
        places = tuple(output / name / "artifact" for name in members)
        asked = {name: given[name] for name in ("data", "allow_factory", "as_json")}
        wish: dict[str, float | None] = {"max_points_lost": None, "max_mean_ms": None, "max_asked": None}
        context.invoke(cascade.command, members=places, output=output / "cascade", **asked, **wish)
