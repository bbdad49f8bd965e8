"""``udacisense techniques``: every compression technique alone on the same baseline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from udacisense.cli.options import OutputPath, allow_factory_option, names_of, seeds_of
from udacisense.cli.output import announce, dry_run_option, emit_json, json_option, next_command, say, show
from udacisense.cli.training_options import compute_options, place_options

if TYPE_CHECKING:
    from udacisense.pipeline.search.place import Place
    from udacisense.pipeline.techniques import TechniquesRecord
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
@click.option("--seeds", callback=seeds_of, help="Several seeds, 0,1,2, instead of --seed; each in OUTPUT/seed-N.")
@place_options
@allow_factory_option
@click.option("-o", "--output", required=True, type=OutputPath(is_folder=True), help="Folder of the run.")
@dry_run_option
@json_option
def command(
    *,
    baseline: Path,
    data: str,
    names: tuple[str, ...],
    seeds: tuple[int, ...],
    output: Path,
    compute: Compute,
    place: Place,
    dry_run: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Run each technique on the baseline, measure it on the test images, and write tables and plots to OUTPUT.

    A finished technique is kept: the same command goes on after Ctrl-C. The same command with the same --study, on this
    machine or another, takes a part of the work. OUTPUT/techniques.md has the tables.
    """
    from dataclasses import replace

    from udacisense.cli.loading import load_data
    from udacisense.models.artifact import load_artifact
    from udacisense.pipeline import PipelineOptions
    from udacisense.pipeline.start import check_start
    from udacisense.pipeline.techniques import estimate_techniques, find_techniques, run_techniques

    chosen, options = find_techniques(names), PipelineOptions(**asked)
    kept, model = load_artifact(baseline, allow_factory=options.allow_factory)
    dataset = load_data(data, size_px=kept.signature.size_px)
    place.check()
    check_start(kept, baseline, dataset, batch_size=options.batch_size, seeds=seeds or (options.seed,))
    cost = estimate_techniques(chosen, kept.model, model, dataset, epochs=options.epochs)
    n_seeds = max(1, len(seeds))
    announce(replace(cost, seconds=cost.seconds * n_seeds, disk_bytes=cost.disk_bytes * n_seeds), output)
    if dry_run:
        return
    found = run_techniques(
        baseline, dataset, output_dir=output, names=names, options=options, compute=compute, seeds=seeds, place=place
    )
    folders = [output / f"seed-{number}" for number in seeds] if n_seeds > 1 else [output]
    for folder, one in zip(folders, found, strict=True):
        _keep(one, folder, is_shown=not as_json)
    if as_json:
        emit_json(found[0] if n_seeds == 1 else found)
    else:
        next_command("udacisense", "report", output, "-o", "report.html")


def _keep(found: TechniquesRecord, folder: Path, *, is_shown: bool) -> None:
    """Write the tables and plots of one seed, and show the tables."""
    from harness.report.plots.techniques import write_plots
    from harness.report.techniques import as_markdown, per_class_table, techniques_table
    from udacisense.base.files import write_text

    tables = (techniques_table(found), per_class_table(found))
    write_text(folder / "techniques.md", "\n".join(as_markdown(t) for t in tables))
    plots = write_plots(found, folder)
    if not is_shown:
        return
    for table in tables:
        show(table)
        say()
    say(f"Written: {folder}/techniques.json, techniques.md and {len(plots)} plots.")
