"""``udacisense techniques``: every compression technique alone on the same baseline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from udacisense.cli.options import allow_factory_option, names_of
from udacisense.cli.output import dry_run_option, emit_json, json_option, next_command, say, show
from udacisense.cli.training_options import compute_options

if TYPE_CHECKING:
    from udacisense.training import Compute


@click.command("techniques", short_help="Measure every compression technique on the same baseline.")
@click.option("--baseline", required=True, type=click.Path(path_type=Path), help="Artifact folder that 'train' wrote.")
@click.option("--data", required=True, help="'cifar100' (downloaded), or a folder with {train,test}/<class>/*.")
@click.option(
    "--technique",
    "names",
    multiple=True,
    help="Only this one; may be given again. All by default.",
    shell_complete=names_of("udacisense.pipeline.techniques", "TECHNIQUES"),
)
@click.option("--epochs", type=int, help="Of those that train; each technique's own by default.")
@click.option("--batch-size", default=64, show_default=True)
@compute_options
@click.option("--seed", default=0, show_default=True)
@allow_factory_option
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder of the run.")
@dry_run_option
@json_option
def command(
    *,
    baseline: Path,
    data: str,
    names: tuple[str, ...],
    epochs: int | None,
    batch_size: int,
    seed: int,
    allow_factory: str | None,
    output: Path,
    compute: Compute,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Run each technique on the baseline, measure it on the test images, and write tables and plots to OUTPUT.

    A finished technique is kept: the same command goes on after Ctrl-C. OUTPUT/techniques.md has the tables.
    """
    from harness.report.plots.techniques import write_plots
    from harness.report.techniques import as_markdown, per_class_table, techniques_table
    from udacisense.base.files import write_text
    from udacisense.cli.costs import announce, techniques_cost
    from udacisense.cli.loading import load_data
    from udacisense.models.artifact import load_artifact
    from udacisense.pipeline import PipelineOptions
    from udacisense.pipeline.techniques import find_techniques, run_techniques

    chosen = find_techniques(names)
    kept, model = load_artifact(baseline, allow_factory=allow_factory)
    dataset = load_data(data, size_px=kept.signature.size_px)
    announce(techniques_cost(chosen, kept.model, model, dataset, epochs=epochs), output)
    if dry_run:
        return
    found = run_techniques(
        baseline,
        dataset,
        output_dir=output,
        names=names,
        options=PipelineOptions(epochs=epochs, batch_size=batch_size, seed=seed, allow_factory=allow_factory),
        compute=compute,
    )
    tables = (techniques_table(found), per_class_table(found))
    write_text(output / "techniques.md", "\n".join(as_markdown(t) for t in tables))
    plots = write_plots(found, output)
    if as_json:
        emit_json(found)
        return
    for table in tables:
        show(table)
        say()
    say(f"Written: {output}/techniques.json, techniques.md and {len(plots)} plots.")
    next_command("udacisense", "report", output, "-o", "report.html")
