"""Reads a file in a process of its own: a phone's runtime may crash on a damaged one, and takes the process with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TypeVar

from udacisense.base.records import from_json
from udacisense.errors import LoadError

T = TypeVar("T")


def read_in_child(
    kind: type[T], module: str, path: Path, *arguments: str, reader: str, expected: str, timeout_s: float
) -> T:
    """Run ``python -m module path arguments…`` and return the record that it prints as JSON.

    Args:
        kind: the record.
        module: prints the record and ends with 0, or the reason on standard error and ends with another code.
        path: the file that is read.
        arguments: what else the module takes.
        reader: the runtime that opens the file, in words.
        expected: what the file should be, behind "is no".
        timeout_s: after which it is ended.

    Raises:
        LoadError: the process crashed, took too long, or refused the file.
    """
    command = [sys.executable, "-m", module, str(path), *arguments]
    advice = "export or copy it again"
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s, errors="replace")
    except subprocess.TimeoutExpired as exc:
        raise LoadError(f"{path} kept {reader} busy for {timeout_s:g} s; {advice}.") from exc
    if done.returncode < 0:
        raise LoadError(f"{path} makes {reader} crash (signal {-done.returncode}); {advice}.")
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise LoadError(f"{path} is no {expected} ({(lines or ['no reason given'])[-1]}); {advice}.")
    return from_json(kind, done.stdout, source=f"what was read from {path}")
