"""``udacisense compress``: a compression pipeline on a trained baseline."""

from __future__ import annotations

from pathlib import Path

import click

from udacisense.cli.options import allow_factory_option, names_of
from udacisense.cli.output import Choice, dry_run_option, emit_json, json_option, next_command, say, show


@click.command("compress", short_help="Run a compression pipeline on a trained baseline.")
@click.option(
    "--pipeline",
    required=True,
    help="p1, p2 or p2-int8; or a full name, as distill_quantize_torchscript.",
    shell_complete=names_of("udacisense.pipeline.recipes", "PIPELINES"),
)
@click.option(
    "--preset",
    "settings",
    default="default",
    show_default=True,
    help="default, or report: see the README.",
    shell_complete=names_of("udacisense.pipeline.recipes", "PRESETS"),
)
@click.option("--baseline", required=True, type=click.Path(path_type=Path), help="Artifact folder that 'train' wrote.")
@click.option("--data", required=True, help="'cifar100' (downloaded), or a folder with {train,test}/<class>/*.")
@click.option(
    "--student",
    help="Preset of the student: p1-student, p1-slim or tiny; the pipeline's by default.",
    shell_complete=names_of("udacisense.models.build", "PRESETS"),
)
@click.option("--resolution", "resolution_px", type=int, help="Edge that the student sees; its preset's by default.")
@click.option("--epochs", type=int, help="Epochs of distillation; the pipeline's by default.")
@click.option("--lr", "learning_rate", type=float, help="Of distillation; the pipeline's by default.")
@click.option("--student-init", help="The student's initial weights: auto, none, imagenet or a .safetensors file.")
@click.option(
    "--teacher",
    type=click.Path(path_type=Path),
    help="Who teaches, instead of the baseline: an artifact folder, or an .onnx file that takes pixels 0-255.",
)
@click.option("--transfer", type=click.Path(path_type=Path), help="Folder of unlabelled images to distil on as well.")
@click.option("--transfer-ratio", default=3.0, show_default=True, help="Transfer images for each labelled one.")
@click.option(
    "--mix", default=0.0, show_default=True, help="Fraction of images blended with another; needs --transfer."
)
@click.option("--batch-size", default=64, show_default=True)
@click.option("--engine", help="Quantised engine of dynamic int8: fbgemm, x86 or qnnpack.")
@click.option("--device", default="cpu", show_default=True, type=Choice(["cpu", "cuda", "mps", "auto"]))
@click.option("--seed", default=0, show_default=True)
@allow_factory_option
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder of the run.")
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
    resolution_px: int | None,
    epochs: int | None,
    learning_rate: float | None,
    student_init: str | None,
    teacher: Path | None,
    transfer: Path | None,
    transfer_ratio: float,
    mix: float,
    batch_size: int,
    engine: str | None,
    device: str,
    seed: int,
    allow_factory: str | None,
    output: Path,
    resume: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Run a pipeline and keep each step, OUTPUT/artifact and OUTPUT/final.pt.

    After each step its size, parameters, latency and accuracy are measured. Finished steps are kept: the same command
    goes on after Ctrl-C or a crash. The requirement table says what was reached; 'gate' turns it into an exit code.
    """
    from harness.report.tables import requirements_table, stages_table
    from udacisense.base.records import ModelSpec, read_json
    from udacisense.cli.costs import announce, compression_cost
    from udacisense.data.images import load_dataset
    from udacisense.models.artifact import load_artifact
    from udacisense.pipeline.plan import plan_pipeline
    from udacisense.pipeline.recipes import find_pipeline
    from udacisense.pipeline.run import RunRecord
    from udacisense.stages.distill import student_spec
    from udacisense.training import training_split

    recipe = find_pipeline(pipeline, preset=settings)
    kept, baseline_model = load_artifact(baseline, allow_factory=allow_factory)
    signature = kept.signature
    dataset = load_dataset(data, size_px=signature.size_px)
    spec: ModelSpec | None = None
    if student is not None or resolution_px is not None:
        usual = recipe.steps[0].options
        chosen = {
            **usual,
            "student": student or usual["student"],
            "student_resolution_px": resolution_px or usual.get("student_resolution_px"),
        }
        spec = student_spec(chosen, num_classes=len(dataset.class_names), size_px=signature.size_px)
    planned = plan_pipeline(
        recipe.name,
        preset=settings,
        baseline=baseline,
        dataset=dataset,
        student=spec,
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        engine=engine,
        learning_rate=learning_rate,
        student_init=student_init,
        teacher=teacher,
        transfer=transfer,
        transfer_ratio=transfer_ratio,
        mix=mix,
        allow_factory=allow_factory,
    )
    n_images = round(len(training_split(dataset)[0]) * (1 + (transfer_ratio if transfer else 0)))
    announce(compression_cost(recipe, spec, baseline_model, n_images=n_images, epochs=epochs), output)
    if dry_run:
        return
    planned.run(device, output_dir=output, resume=resume)
    result = read_json(RunRecord, output / RunRecord.FILE_NAME)
    if as_json:
        emit_json(result)
        return
    say(f"{recipe.full_name} on {result.baseline.n_eval_images} test images of {dataset.name}:\n")
    show(stages_table(result.baseline, result.stages))
    say()
    show(requirements_table(result.requirements))
    next_command("udacisense", "export", output / "artifact", "--data", data, "-o", output / "bundle")
