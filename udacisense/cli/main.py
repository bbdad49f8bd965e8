"""The front door: ``udacisense COMMAND``.

One file a command, imported when it is called, so that ``--help`` answers at once. This package alone sees every
room; it imports them inside command bodies.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import click

from udacisense import __version__
from udacisense.errors import Interrupted, UdacisenseError, cause, did_you_mean, foreign_cause

INTERRUPTED = 130  # exit code: 128 + SIGINT, as shells have it

_log = logging.getLogger("udacisense")
_ROOT = str(Path(__file__).resolve().parents[2])

# In the order of the work; the help text stands here so that listing the commands imports none of them.
HEADINGS: dict[str, dict[str, str]] = {
    "Start here": {
        "doctor": "Show what this machine has and what can run here.",
        "demo": "Run the whole job in minutes on the trained models that ship.",
    },
    "Train and compress": {
        "data": "Check photos, and see what is kept of them.",
        "train": "Train a model on labelled images.",
        "evaluate": "Measure a trained model on the test images.",
        "compress": "Run a compression pipeline on a trained baseline.",
        "techniques": "Measure every compression technique on the same baseline.",
        "cascade": "Let a small model answer, and a larger one where it is not sure.",
        "search": "Find the network that learns most within limits.",
    },
    "Export": {
        "export": "Write a model in the formats that phones run, as one bundle.",
        "inspect": "Show a bundle and check every byte of it.",
        "preflight": "Check a mobile file against the runtime that will load it.",
    },
    "Prove and measure": {
        "verify": "Prove that every exported file answers as its source does.",
        "bench": "Time every exported file on this machine.",
        "gate": "Hold a bundle against its requirements; the exit code is the answer.",
        "report": "Write everything measured as HTML, or as Markdown and JSON.",
    },
    "Phones": {
        "device": "Test and measure on phones, through the demo app.",
        "runtime": "Set up the phone's own library on this machine.",
    },
    "Shell": {
        "completion": "Print the script that completes commands and options in your shell.",
    },
}
COMMANDS = {name: told for commands in HEADINGS.values() for name, told in commands.items()}


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the commands in the order of the work."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"udacisense.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands under their headings, without importing them."""
        width = max(map(len, COMMANDS))
        for heading, commands in HEADINGS.items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(width), told) for name, told in commands.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which one may have been meant."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            hint = did_you_mean(args[0], COMMANDS) or " See 'udacisense --help'."
            raise click.UsageError(f"There is no command '{args[0]}'.{hint}", ctx)
        if not ctx.resilient_parsing:
            _refuse_empty(args, ctx)
        return super().resolve_command(ctx, args)


def _refuse_empty(args: list[str], ctx: click.Context) -> None:
    """Refuse an empty value, which would be taken for the working folder, or for an option that was not given."""
    for before, given in pairwise(args):
        option, is_whole, value = given.partition("=")
        if not given or (is_whole and not value and option.startswith("--")):
            name = option or (before if before.startswith("-") else "An argument")
            raise click.UsageError(f"{name} is empty, as of a shell's variable that is not set; give a value.", ctx)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 clean; 1 a check failed or a gate missed; 2 bad input; "
    "3 an artifact would not load; 4 inference failed.",
)
@click.version_option(__version__, "--version", prog_name="udacisense")
@click.option("-q", "--quiet", is_flag=True, help="Print errors, and JSON where asked for, and nothing else.")
@click.option("-v", "--verbose", is_flag=True, help="Say more, and show where an error came from.")
@click.pass_context
def cli(ctx: click.Context, *, quiet: bool, verbose: bool) -> None:
    """Compress an image classifier for a phone, and prove that what ships is what was trained."""
    if quiet and verbose:
        raise click.UsageError("--quiet and --verbose exclude each other.", ctx)
    _log.setLevel(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)


def main(argv: list[str] | None = None) -> None:
    """Run the command line and end the process with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that has no "×" or "Δ" gets a "?", and no traceback
    _log.propagate = False  # or a user's code that sets up logging for itself prints all of ours once more
    try:
        here = str(Path.cwd())
        # Some ways to start Python search the working folder first; --allow-factory is the one door to it.
        sys.path[:] = [place for place in sys.path if (place or here) != here or here == _ROOT]
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # and not ignored, as in the background
            signal.signal(signal.SIGINT, _interrupt)
        code = run(argv)
    except KeyboardInterrupt:  # on the way in, or a second one on the way out
        code = INTERRUPTED
    if code == INTERRUPTED:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would only disturb the way out
    sys.exit(code)


def run(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code; deliberate errors are printed as one line."""
    level = _log.level
    handler = logging.StreamHandler(sys.stderr) if not _log.handlers else None
    if handler is not None:
        handler.setFormatter(logging.Formatter("%(message)s"))
        _log.addHandler(handler)
    try:
        with contextlib.redirect_stdout(sys.stdout), _no_way_out():  # what a command does to it ends with the command
            return _run(argv)
    finally:
        _log.setLevel(level)
        if handler is not None:
            _log.removeHandler(handler)


@contextlib.contextmanager
def _no_way_out() -> Iterator[None]:
    """Let ``os._exit`` of a user's code end the command as ``sys.exit`` does, which is told: it may have said 0."""
    leave, process = os._exit, os.getpid()

    def refuse(status: int) -> None:
        if os.getpid() == process and threading.current_thread() is threading.main_thread():
            raise SystemExit(f"os._exit({status})")
        leave(status)

    os._exit = refuse  # type: ignore[assignment]
    try:
        yield
    finally:
        os._exit = leave


def _run(argv: list[str] | None) -> int:
    try:
        result: Any = cli.main(args=argv, prog_name="udacisense", standalone_mode=False)
    except click.exceptions.Exit as exc:
        return exc.exit_code
    except click.ClickException as exc:
        _with_its_place(exc).show()
        return exc.exit_code
    except (click.Abort, KeyboardInterrupt, SystemExit, GeneratorExit) as exc:
        return _report_end(exc)
    except Exception as exc:
        return _report_failure(exc)
    return result if isinstance(result, int) else 0


def _report_failure(exc: Exception) -> int:
    if isinstance(exc, OSError):
        return _report_os_error(exc)
    place = None if isinstance(exc, UdacisenseError) else _users_place(exc)
    if place is None and not isinstance(exc, UdacisenseError):  # ours: a defect, which its traceback tells best
        raise exc
    _log.debug("", exc_info=exc)
    words = (
        str(exc) if place is None else f"Code that is not this program's failed at {place}: {cause(exc).rstrip('.')}."
    )
    click.echo(f"error: {words}", err=True)
    return exc.exit_code if isinstance(exc, UdacisenseError) else 2


def _users_place(exc: Exception) -> str | None:
    """Return the innermost line of a user's own code that an exception went through; None where it met none."""
    known = [str(Path(_ROOT, room)) for room in ("udacisense", "exporters", "harness", "tests")]
    libraries = (*known, sys.prefix, sys.base_prefix, "<")
    for frame in reversed(traceback.extract_tb(exc.__traceback__)):
        if not frame.filename.startswith(libraries) and "-packages" not in frame.filename:
            return f"{Path(frame.filename).name}:{frame.lineno} ({frame.line})"
    return None


def _report_end(exc: BaseException) -> int:
    """Say what ended a command: Ctrl-C, or a user's code that ends the program."""
    if isinstance(exc, SystemExit) and hasattr(sys.stdout, "wrapped"):  # so click ends where nobody reads the pipe
        return _report_os_error(BrokenPipeError())
    if isinstance(exc, SystemExit) and "_UDACISENSE_COMPLETE" in os.environ:  # click has answered the shell
        return int(exc.code or 0)
    origin = exc.__cause__ if isinstance(exc, click.Abort) else exc  # which click makes of others
    try:
        why = foreign_cause(origin or Interrupted())
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        return INTERRUPTED
    click.echo(f"error: Code that this command called ended it: {why}.", err=True)
    return 2


def _interrupt(*_: object) -> None:
    raise Interrupted


def _with_its_place(exc: click.ClickException) -> click.ClickException:
    """Say of an option that goes before the command, and was given behind it, where it goes."""
    if not isinstance(exc, click.NoSuchOption) or exc.ctx is None:
        return exc
    if not any(exc.option_name in row.opts for row in cli.params if not row.is_eager):
        return exc
    program, _, command = exc.ctx.command_path.partition(" ")
    right = f"{program} {exc.option_name} {command} ..."
    message = f"{exc.option_name} goes before the command: {right}"
    return click.NoSuchOption(exc.option_name, message=message, ctx=exc.ctx)


def _report_os_error(exc: OSError) -> int:
    if isinstance(exc, BrokenPipeError):
        # The reader of the pipe has gone (`| head`): nothing is left to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if exc.errno is None:  # raised by a library for its own reasons: a defect, not the user's input
        raise exc
    click.echo(f"error: {describe(exc)}", err=True)
    return 2


def describe(exc: OSError) -> str:
    """Say in a sentence what this machine refused, and what to do about it."""
    advice = {
        errno.ENOSPC: "free some space or write to another disk",
        errno.EDQUOT: "free some space or write to another disk",
        errno.EFBIG: "raise the limit on the size of files, ulimit -f, or write to another file system",
        errno.EACCES: "choose a place that you may write to, or change its permissions",
        errno.EPERM: "choose a place that you may write to, or change its permissions",
        errno.EROFS: "choose a place that can be written to",
        errno.ENOENT: "check the path",
        errno.ENOTDIR: "check the path: a part of it is a file",
        errno.EISDIR: "give a file, not a folder",
    }.get(exc.errno or 0)
    place = f"{exc.filename}: " if exc.filename else ""
    return f"{place}{exc.strerror}{f' ({advice})' if advice else ''}."
