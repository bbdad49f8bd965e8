"""How commands speak: tables on a terminal, plain text in a pipe, JSON on request, and the next command.

With ``--quiet`` all of it but JSON and CSV is left out.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from udacisense.base.display import megabytes
from udacisense.base.progress import is_live, is_quiet
from udacisense.errors import did_you_mean

if TYPE_CHECKING:
    from harness.report.table import Table
    from udacisense.measure.estimate import Estimate

    _Choice = click.Choice[str]
else:
    _Choice = click.Choice  # which takes a type from click 8.2 on

F = TypeVar("F", bound=Callable[..., Any])
Cell = str | int | float | None

_LEAST_WIDTH = 9  # of a column on a terminal, where its cells are as long
_STANDARD_OUTPUT = 1  # its descriptor
_ANSWERS = "udacisense.answers"  # in a context's meta: where they go, if that is not standard output
_STYLES = {"passed": "green", "failed": "bold red", "skipped": "yellow"}


class Choice(_Choice):
    """One of a few values; a near miss is answered with the one that may have been meant."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the value, or refuse it."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as exc:
            self.fail(exc.message + did_you_mean(str(value), self.choices), param, ctx)


def json_option(function: F) -> F:
    """Add ``--json``: the answer as JSON on standard output, and nothing else there."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print the answer as JSON.", callback=keep_prints_apart
    )(function)


def keep_prints_apart(ctx: click.Context, param: click.Parameter, value: Any) -> Any:  # noqa: ARG001 - click's
    """Where the answer is for a machine, send what a user's model prints to standard error; the run's end undoes it."""
    if value not in (False, "table"):
        ctx.meta[_ANSWERS] = sys.stdout
        real = sys.__stdout__
        if real is not None and sys.stdout is real and real.fileno() == _STANDARD_OUTPUT:
            # What prints past Python, as C does, goes by the descriptor. The answer keeps a copy of it.
            kept = os.dup(_STANDARD_OUTPUT)
            ctx.meta[_ANSWERS] = os.fdopen(kept, "w", encoding=real.encoding, errors="replace")
            os.dup2(sys.stderr.fileno(), _STANDARD_OUTPUT)
        sys.stdout = sys.stderr
    return value


def _echo(text: str, *, nl: bool = True) -> None:
    click.echo(text, nl=nl, file=_answers())


def _answers() -> Any:
    ctx = click.get_current_context(silent=True)
    return sys.stdout if ctx is None else ctx.meta.get(_ANSWERS, sys.stdout)


def dry_run_option(function: F) -> F:
    """Add ``--dry-run``."""
    return click.option("--dry-run", is_flag=True, help="Say what would be done and what it takes, and stop.")(function)


def emit_json(value: Any) -> None:
    """Print a record, or plain data with records in it, as JSON."""
    import dataclasses

    from udacisense.base.records import to_json

    if dataclasses.is_dataclass(value):
        _echo(to_json(value), nl=False)
    else:
        _echo(json.dumps(value, indent=2, default=lambda record: json.loads(to_json(record))))


def say(text: str = "") -> None:
    """Print a line that is no part of a machine's answer."""
    if not is_quiet():
        _echo(text)


def say_cost(text: str) -> None:
    """Print, before it is spent, what a command will take; on standard error, apart from any answer."""
    if not is_quiet():
        click.echo(text, err=True)


def duration(seconds: float) -> str:
    """Return a duration as it is said everywhere: ``7 s``, ``23 min``, ``1.6 h``."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def next_command(*words: object) -> None:
    """Print the command that comes next, ready to paste into a shell: a word with a blank in it is quoted."""
    say(f"\nNext:  {shlex.join(map(str, words))}")


def show(made: Table) -> None:
    """Print a table made of records, and its notes."""
    table(made.title, made.columns, made.rows)
    if made.notes:
        say()
    for note in made.notes:
        say(note)


def render(made: Table, form: str) -> None:
    """Print a table as ``table``, ``markdown`` or ``csv``."""
    if form == "table":
        show(made)
    elif form == "csv":
        import csv

        writer = csv.writer(_answers(), lineterminator="\n")
        writer.writerows([made.columns, *(["" if cell is None else cell for cell in row] for row in made.rows)])
    else:
        from harness.report.table import markdown_cell

        for row in (made.columns, ("---",) * len(made.columns), *made.rows):
            _echo("| " + " | ".join(markdown_cell(cell) for cell in row) + " |")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Print a table: rich where standard output is a terminal, aligned plain text elsewhere.

    Columns whose cells are all numbers (or start with a digit or sign) are aligned to the right.
    """
    if is_quiet():
        return
    texts = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    right = [bool(texts) and all(_is_numeric(row[i]) for row in texts) for i in range(len(columns))]
    if is_live(_answers()):
        _rich_table(title, columns, texts, right)
    else:
        _plain_table(title, columns, texts, right)


def _is_numeric(text: str) -> bool:
    return text == "-" or text[:1].isdigit() or (text[:1] in "+-−" and text[1:2].isdigit())


def _rich_table(title: str, columns: Sequence[str], texts: list[list[str]], right: list[bool]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=_answers())
    longest = [max(map(len, (name, *(row[i] for row in texts)))) for i, name in enumerate(columns)]
    if console.width < sum(min(_LEAST_WIDTH, width) + 3 for width in longest) + 1:
        _list_rows(title, columns, texts)  # side by side, the columns would be cut to nothing
        return
    view = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for name, is_right in zip(columns, right, strict=True):
        view.add_column(name, justify="right" if is_right else "left", overflow="fold")
    for row in texts:
        view.add_row(*(Text(text, style=_STYLES.get(text.split(":")[0], "")) for text in row))
    console.print(view)


def _list_rows(title: str, columns: Sequence[str], texts: list[list[str]]) -> None:
    _echo(title)
    for row in texts:
        _echo("\n" + "\n".join(f"{name}: {text}" for name, text in zip(columns, row, strict=True) if text != "-"))


def _plain_table(title: str, columns: Sequence[str], texts: list[list[str]], right: list[bool]) -> None:
    widths = [max(len(line[i]) for line in [list(columns), *texts]) for i in range(len(columns))]

    def line(cells: Sequence[str]) -> str:
        parts = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True)]
        return "  ".join(parts).rstrip()

    _echo(title)
    _echo(line(columns))
    _echo(line(["-" * w for w in widths]))
    for row in texts:
        _echo(line(row))


def announce(cost: Estimate, folder: Path) -> None:
    """Print a cost, and how much room the disk of ``folder`` has."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    free_bytes = shutil.disk_usage(place).free
    short = " (that is more than is free there)" if free_bytes < cost.disk_bytes else ""
    say_cost(
        f"{cost.what}: about {duration(cost.seconds)} and {megabytes(cost.disk_bytes)} of the "
        f"{free_bytes / 1e9:.1f} GB that are free for {folder}{short}."
    )
    width = max(40, shutil.get_terminal_size().columns)
    for line in cost.details:
        say_cost(textwrap.fill(line, width, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False))
