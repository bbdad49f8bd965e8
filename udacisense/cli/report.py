"""``udacisense report``: everything measured, in one document."""

from __future__ import annotations

from pathlib import Path

import click

from udacisense.cli.options import OutputPath
from udacisense.cli.output import say


@click.command("report", short_help="Write everything measured as HTML, or as Markdown and JSON.")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=OutputPath(), help="A .html, .md or .json file.")
@click.option("--title", default="Compression report", show_default=True)
@click.option("--data", help="The images that verify was given: HTML then shows those that changed their label.")
def command(*, runs: tuple[Path, ...], output: Path, title: str, data: str | None) -> None:
    """Collect the records under RUNS (folders, files, or names of models that ship) and write OUTPUT.

    A .html file is whole in itself: it opens anywhere, without a network. A .md and its .json are written together.
    The report computes nothing that the records do not hold.
    """
    from harness.report.collect import collect
    from harness.report.html import to_html
    from harness.report.markdown import to_json_text, to_markdown
    from udacisense.base.files import atomic_path, write_text
    from udacisense.data.images import load_dataset
    from udacisense.errors import InputError
    from udacisense.zoo.table import resolve_artifact

    if output.suffix not in (".html", ".md", ".json"):
        raise InputError(
            f"{output} ends with {output.suffix or 'nothing'!r}; give a file that ends with .html, .md or .json."
        )
    if data is not None and output.suffix != ".html":
        raise InputError(
            f"--data draws images, and {output.suffix} holds none; write a .html file, or leave --data out."
        )
    evidence = collect([resolve_artifact(path) for path in runs])
    written = [output] if output.suffix == ".html" else [output.with_suffix(".md"), output.with_suffix(".json")]
    targets = {path.resolve() for path in written}
    for record in evidence.files:
        if record.resolve() in targets:
            raise InputError(f"The report would take the place of the record {record}; give the output another name.")
    if output.suffix == ".html":
        sizes = {manifest.signature.size_px for _, manifest in evidence.bundles}
        if data is not None and len(sizes) != 1:
            raise InputError("--data needs bundles that all take images of one size; report them one by one.")
        dataset = None if data is None else load_dataset(data, size_px=sizes.pop())
        write_text(output, to_html(evidence, title=title, dataset=dataset))
        say(f"Written: {output}.")
        return
    with atomic_path(written[0]) as page, atomic_path(written[1]) as figures:  # both, or none of them
        page.write_text(to_markdown(evidence, title=title), encoding="utf-8")
        figures.write_text(to_json_text(evidence, title=title), encoding="utf-8")
    say(f"Written: {written[0]} and {written[1]}.")
