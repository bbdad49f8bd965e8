"""Every error that the product raises on purpose.

::

    UdacisenseError          exit code 2   (base: bad input unless a subclass says otherwise)
    ├── InputError           exit code 2   a path, an option or a file's content is wrong
    │   └── BusyError        exit code 2   another run writes there now
    ├── LoadError            exit code 3   an artifact exists but would not load
    ├── InferenceError       exit code 4   a loaded model failed while it ran
    └── TrainingError        exit code 1   training ran and ended without a usable model
        └── StageError       the cause's   a pipeline step failed; names the steps already kept

Every message is one sentence or two that say what was given, what is allowed and what to do.
The command line prints it after ``error:`` and ends with :attr:`UdacisenseError.exit_code`.
"""

from __future__ import annotations

import re
import signal
import traceback
from collections.abc import Iterable
from pathlib import Path


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` with the nearest of the allowed names, or nothing where none is near."""
    import difflib

    near = difflib.get_close_matches(given, list(allowed), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def first_line(exc: BaseException) -> str:
    """Return the first line of what an exception says, without its full stop; its class where it says nothing."""
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0].rstrip(".")


def cause(exc: BaseException) -> str:
    """Return why something failed: a deliberate error's own words, else the class and the message on one line.

    A long message is shortened in its middle: its end often is what says why. PyTorch's C++ frames are left out. An
    exception without a message, as an assertion raises it, is told by the line that raised it.
    """
    if isinstance(exc, UdacisenseError):
        return str(exc)
    try:
        said = str(exc)
    except Exception:  # a foreign class, whose own words fail
        said = ""
    text = " ".join(re.split(r"\n(?:Exception raised from|frame #)", said)[0].split())
    if not text and (frames := traceback.extract_tb(exc.__traceback__)):
        code = f" ({frames[-1].line})" if frames[-1].line else ""
        text = f"at {Path(frames[-1].filename).name}:{frames[-1].lineno}{code}"
    if len(text) > 400:
        text = f"{text[:200]} ... {text[-200:]}"
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, at the command line: a plain KeyboardInterrupt there is one that a user's code raised."""


def foreign_cause(exc: BaseException) -> str:
    """Return why a user's code ended, whatever it raised, as :func:`cause` does.

    Raises:
        KeyboardInterrupt: it was Ctrl-C, and no exception of that code.
    """
    is_plain = type(exc) is KeyboardInterrupt and signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    if isinstance(exc, KeyboardInterrupt) and not is_plain:
        raise exc
    if isinstance(exc, SystemExit) and not isinstance(exc.code, str):  # as argparse does
        return f"it ends the program, by {exc.code!r}: code that reads the command line belongs under __main__"
    return cause(exc)


class UdacisenseError(Exception):
    """Base of all deliberate errors."""

    exit_code: int = 2

    def __str__(self) -> str:
        """Return the message on one line: what it quotes of a file may hold line feeds, or codes that move a cursor."""
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in super().__str__())


class InputError(UdacisenseError):
    """A path, an option or a file's content is not what is allowed."""


class BusyError(InputError):
    """Another run writes to the same place now."""


class LoadError(UdacisenseError):
    """An artifact exists but its runtime would not load it."""

    exit_code: int = 3


class InferenceError(UdacisenseError):
    """A loaded model failed while it ran."""

    exit_code: int = 4


class TrainingError(UdacisenseError):
    """Training ran and ended without a usable model (for example: a non-finite loss)."""

    exit_code: int = 1


class StageError(TrainingError):
    """A pipeline step failed. The message names the step, the cause, and the steps already kept.

    Args:
        message: what is printed.
        exit_code: the cause's, where the cause was deliberate.
    """

    def __init__(self, message: str, *, exit_code: int = TrainingError.exit_code) -> None:
        super().__init__(message)
        self.exit_code = exit_code
