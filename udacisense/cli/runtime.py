"""``udacisense runtime``: what runs or writes files in an environment of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from udacisense.base.display import megabytes
from udacisense.cli.options import names_of
from udacisense.cli.output import Cell, duration, next_command, say, table


@click.group("runtime", short_help="Set up phones' own libraries, and the toolchains of .pte and .tflite.")
def command() -> None:
    """Set up what cannot share this program's environment.

    Phones' own libraries run on this Linux machine. 'android-x86_64' and 'litert-android-x86_64' are what an emulator
    on a PC runs; 'android-arm64' and 'litert-android-arm64' are the phone's own binaries, under qemu. 'verify' uses
    each as a runner once it is set up, and 'executorch-arm64' too, which has ExecuTorch's arm64 kernels.
    'onnxruntime-arm64' only counts instructions, of .onnx and .ort files.

    The toolchains 'executorch' and 'litert' write and run .pte and .tflite, with a newer torch than this program's.
    """


@command.command("list")
def list_command() -> None:
    """Show what is set up, where, and what the others need."""
    from exporters.toolchain.setup import list_toolchains
    from harness.runtime.setup import list_runtimes

    runtimes = [(s.name, s.library_version, s.disk_bytes, s.folder, s.reason) for s in list_runtimes()]
    toolchains = [(s.name, s.version, s.disk_bytes, s.folder, s.reason) for s in list_toolchains()]
    rows: list[list[Cell]] = [
        [name, version, megabytes(disk_bytes), str(folder) if folder else None, reason or "ready"]
        for name, version, disk_bytes, folder, reason in (*runtimes, *toolchains)
    ]
    table("Runtimes and toolchains", ("name", "library", "disk", "folder", "state"), rows)


@command.command("doctor")
def doctor_command() -> None:
    """Look at every file of what is set up; end with 1 where something is broken."""
    from exporters.toolchain.setup import TOOLCHAINS, damage, is_begun
    from harness.runtime.setup import find_folder, list_runtimes

    found = {s.name: s.reason for s in list_runtimes() if find_folder(s.name)}
    found |= {name: damage(name) for name in TOOLCHAINS if is_begun(name)}
    rows: list[list[Cell]] = [[name, reason or "whole"] for name, reason in found.items()]
    table("What is set up", ("name", "state"), rows)
    if any(found.values()):
        raise click.exceptions.Exit(1)


@command.command("add")
@click.argument("name", shell_complete=names_of("harness.runtime.catalogue", "RUNTIMES", "executorch", "litert"))
@click.option("--library-version", help="Another release of an Android library; the one added last is used.")
@click.option("--offline", "offline_dir", type=click.Path(path_type=Path), help="Folder that holds the downloads.")
@click.option("--dry-run", is_flag=True, help="Say what it would cost, and stop.")
def add_command(*, name: str, library_version: str | None, offline_dir: Path | None, dry_run: bool) -> None:
    """Set up NAME under the user's cache folder, anew where it is there, and prove it."""
    from exporters.toolchain.setup import TOOLCHAINS
    from udacisense.errors import InputError

    if name not in TOOLCHAINS:
        _add_runtime(name, library_version, offline_dir, dry_run=dry_run)
    elif library_version is not None:
        raise InputError(f"The releases in the toolchain {name} are chosen together; leave --library-version out.")
    else:
        _add_toolchain(name, offline_dir, dry_run=dry_run)


def _add_toolchain(name: str, offline_dir: Path | None, *, dry_run: bool) -> None:
    from exporters.toolchain.setup import DISK_BYTES, DOWNLOAD_BYTES, SECONDS, TOOLCHAINS, add_toolchain, folder_of

    say(
        f"{name} takes up to {megabytes(DISK_BYTES)} at {folder_of(name)}, of which {megabytes(DOWNLOAD_BYTES)} are "
        f"downloads that go again, and about {duration(SECONDS)}."
    )
    if dry_run:
        return
    with _telling() as tell:
        made = add_toolchain(name, offline_dir=offline_dir, on_progress=tell)
    say(f"{name} is ready: its packages were imported. It takes {megabytes(made.disk_bytes)}.")
    next_command("udacisense", "export", "MODEL", "-f", TOOLCHAINS[name].formats[0], "-o", "BUNDLE")


def _add_runtime(name: str, library_version: str | None, offline_dir: Path | None, *, dry_run: bool) -> None:
    from harness.runners.table import RUNNERS
    from harness.runtime.catalogue import cache_root, cost
    from harness.runtime.setup import add_runtime

    disk_bytes, seconds = cost(name)
    say(f"{name} takes about {megabytes(disk_bytes)} below {cache_root()} and about {duration(seconds)}.")
    if dry_run:
        return
    with _telling() as tell:
        made = add_runtime(name, library_version=library_version, offline_dir=offline_dir, on_progress=tell)
    say(f"{made.name} {made.library_version} is ready: a small file ran, max |Δ| {made.self_test_max_abs:.2g}.")
    runs = name in RUNNERS
    line = ["verify", "BUNDLE", "--runner", name] if runs else ["bench", "BUNDLE", "--only-instructions"]
    next_command("udacisense", *line)


@contextmanager
def _telling() -> Iterator[Callable[[float, str], None]]:
    """Yield what a set-up calls with the fraction done and what is being done."""
    from udacisense.base.progress import progress

    with progress("setting up", 1.0) as advance:
        done = 0.0

        def tell(fraction: float, what: str) -> None:
            nonlocal done
            advance(fraction - done, note=what)
            done = fraction

        yield tell


@command.command("remove")
@click.argument("name", shell_complete=names_of("harness.runtime.catalogue", "RUNTIMES", "executorch", "litert"))
def remove_command(*, name: str) -> None:
    """Remove NAME, every version of it; the toolchains share one environment, so both go."""
    from exporters.toolchain.setup import TOOLCHAINS, remove_toolchain
    from harness.runtime.setup import remove_runtime

    removed = remove_toolchain(name) if name in TOOLCHAINS else remove_runtime(name)
    say("\n".join(f"Removed {path}." for path in removed) or f"{name} was not set up.")
