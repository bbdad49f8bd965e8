"""``udacisense data``: what is in a folder of photos, and what is kept of it between runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from udacisense.base.display import megabytes
from udacisense.cli.output import Cell, emit_json, json_option, next_command, say, table

if TYPE_CHECKING:
    from udacisense.data.check import DataReport

_MOST_CLASSES = 30  # that are shown one by one
_MOST_EXAMPLES = 3


@click.group("data", short_help="Check photos, and see what is kept of them.")
def command() -> None:
    """Check a folder of photos before a training, and manage the cache of decoded ones.

    Large sets are decoded once, into the cache folder, and are mapped from there: a second run starts in seconds.
    """


@command.command("check")
@click.argument("folder", type=click.Path(path_type=Path))
@json_option
def check_command(*, folder: Path, as_json: bool) -> int:
    """Read every photo of FOLDER, {train,test}/<class>/*, and tell what is there and what is odd.

    Ends with 1 where something would spoil a training or its figures: photos that cannot be read, that are in train and
    in test, or in two classes.
    """
    from udacisense.data.check import check_folder

    report = check_folder(folder)
    if as_json:
        emit_json(report)
        return int(report.spoils)
    _show(report)
    if not report.spoils:
        next_command("udacisense", "train", "--data", folder, "-o", "runs/baseline")
    return int(report.spoils)


def _show(report: DataReport) -> None:
    names = sorted(report.train, key=lambda name: -report.train[name])
    forms = ", ".join(f"{count:,} {form}" for form, count in report.formats.items()) or "none that can be read"
    if report.short_edges_px is not None:
        least, median, most = report.short_edges_px
        forms += f"; short edges {least} px" + (f" to {most} px, median {median} px" if least != most else "")
    n_train, n_test = sum(report.train.values()), sum(report.test.values())
    say(f"{report.folder}: {len(names)} classes, {n_train:,} training and {n_test:,} test photos; {forms}.\n")
    shown = names if len(names) <= _MOST_CLASSES else [*names[: _MOST_CLASSES // 2], *names[-_MOST_CLASSES // 2 :]]
    title = "Classes" if shown is names else f"The largest and the smallest of {len(names)} classes"
    table(title, ["class", "train", "test"], [[name, report.train[name], report.test[name]] for name in shown])
    for finding in report.findings:
        between = ": " if finding.kind in ("unreadable", "skipped") else " = "  # a file and its reason, or equal photos
        examples = "; ".join(between.join(_brief(names)) for names in finding.photos[:_MOST_EXAMPLES])
        more = f"; and {len(finding.photos) - _MOST_EXAMPLES:,} more" if len(finding.photos) > _MOST_EXAMPLES else ""
        state = "failed" if finding.spoils else "note"
        say(f"\n{state} ({finding.n_photos:,}): {finding.sentence}{'. ' if examples else ''}{examples}{more}.")
    if not report.findings:
        say("\nNothing is odd.")


def _brief(names: tuple[str, ...]) -> tuple[str, ...]:
    return names if len(names) <= _MOST_EXAMPLES else (*names[:_MOST_EXAMPLES], f"{len(names) - _MOST_EXAMPLES} more")


@command.command("list")
def list_command() -> None:
    """Show which photos are kept decoded, of which folder, and what disk they take."""
    from udacisense.base.files import size_bytes
    from udacisense.data.decoding import caches, list_caches

    rows: list[list[Cell]] = []
    for place, kept in list_caches():
        what: list[Cell] = ["cannot be read", None, None]
        if kept is not None:
            is_there = Path(kept.source).is_dir()
            what = [kept.source + ("" if is_there else " (no longer there)"), kept.n_images, kept.size_px]
        rows.append([place.name, *what, megabytes(size_bytes(place))])
    table(f"Decoded photos in {caches()}", ["name", "photos of", "photos", "px", "disk"], rows)


@command.command("remove")
@click.argument("name")
def remove_command(*, name: str) -> None:
    """Remove what is kept decoded: NAME as 'list' shows it, the path of a folder of photos, or 'all'."""
    from udacisense.data.decoding import remove_caches

    removed = remove_caches(name)
    say("\n".join(f"Removed {path}." for path in removed) or f"Nothing is kept of {name}.")
