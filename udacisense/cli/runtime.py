"""``udacisense runtime``: the phone's own library on this machine."""

from __future__ import annotations

from pathlib import Path

import click

from udacisense.base.display import megabytes
from udacisense.cli.options import names_of
from udacisense.cli.output import Cell, duration, next_command, say, table


@click.group("runtime", short_help="Set up the phone's own library on this machine.")
def command() -> None:
    """Run PyTorch Mobile's official Android library on this Linux machine.

    'android-x86_64' is what an emulator on a PC runs; 'android-arm64' is the phone's own binary, under qemu. 'verify'
    uses each as a runner once it is set up. 'onnxruntime-arm64' only counts instructions, of .onnx and .ort files.
    """


@command.command("list")
def list_command() -> None:
    """Show which runtimes are set up, where, and what the others need."""
    from harness.runtime.setup import list_runtimes

    rows: list[list[Cell]] = [
        [
            state.name,
            state.library_version,
            megabytes(state.disk_bytes),
            str(state.folder) if state.folder else None,
            state.reason or "ready",
        ]
        for state in list_runtimes()
    ]
    table("Runtimes", ("runtime", "library", "disk", "folder", "state"), rows)


@command.command("add")
@click.argument("name", shell_complete=names_of("harness.runtime.catalogue", "RUNTIMES"))
@click.option("--library-version", help="Another release than the one known to work; the one added last is used.")
@click.option("--offline", "offline_dir", type=click.Path(path_type=Path), help="Folder that holds the downloads.")
@click.option("--dry-run", is_flag=True, help="Say what it would cost, and stop.")
def add_command(*, name: str, library_version: str | None, offline_dir: Path | None, dry_run: bool) -> None:
    """Set up NAME under the user's cache folder, and prove it by running a small file."""
    from harness.runners.table import RUNNERS
    from harness.runtime.catalogue import cache_root, cost
    from harness.runtime.setup import add_runtime
    from udacisense.base.progress import progress

    disk_bytes, seconds = cost(name)
    say(f"{name} takes about {megabytes(disk_bytes)} below {cache_root()} and about {duration(seconds)}.")
    if dry_run:
        return
    with progress("setting up", 1.0) as advance:
        done = 0.0

        def on_progress(fraction: float, what: str) -> None:
            nonlocal done
            advance(fraction - done, note=what)
            done = fraction

        made = add_runtime(
            name,
            library_version=library_version,
            offline_dir=offline_dir,
            on_progress=on_progress,
        )
    say(f"{made.name} {made.library_version} is ready: a small file ran, max |Δ| {made.self_test_max_abs:.2g}.")
    runs = name in RUNNERS
    line = ["verify", "BUNDLE", "--runner", name] if runs else ["bench", "BUNDLE", "--only-instructions"]
    next_command("udacisense", *line)


@command.command("remove")
@click.argument("name", shell_complete=names_of("harness.runtime.catalogue", "RUNTIMES"))
def remove_command(*, name: str) -> None:
    """Remove NAME, every version of it."""
    from harness.runtime.setup import remove_runtime

    removed = remove_runtime(name)
    say("\n".join(f"Removed {path}." for path in removed) or f"{name} was not set up.")
