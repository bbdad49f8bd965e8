"""Progress bars on a terminal; silence in a pipe, in continuous integration and when asked to be quiet."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO


class Advance(Protocol):
    """Moves a bar on; ``note`` replaces the words behind it."""

    def __call__(self, steps: float = 1, *, note: str = "") -> None:
        """Move the bar on by ``steps``."""


def is_live(stream: TextIO) -> bool:
    """Tell whether a person watches a stream: it is a terminal, not a dumb one, and no CI service's log."""
    is_ci = os.environ.get("CI", "").lower() not in ("", "0", "false")
    return stream.isatty() and not is_ci and os.environ.get("TERM") != "dumb"


def is_quiet() -> bool:
    """Tell whether nothing but errors and machines' answers is wanted: the log's level says so."""
    return logging.getLogger("udacisense").level > logging.INFO


@contextmanager
def progress(description: str, total: float) -> Iterator[Advance]:
    """Show a bar with time left on standard error while the block runs; nothing where nobody watches."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    is_shown = is_live(sys.stderr) and not is_quiet()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not is_shown) as bars:
        task = bars.add_task(description, total=total, note="")

        def advance(steps: float = 1, *, note: str = "") -> None:
            bars.update(task, advance=steps, note=note)

        yield advance
