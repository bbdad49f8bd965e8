"""How long ``import udacisense`` and ``--help`` of every command take: a process each, by median of shuffled rounds.

Run it on a quiet host, from the repository's root: ``.venv/bin/python tests/campaigns/help_speed.py``. It ends with 1
where a median is over its limit. It is no part of the test run, which asserts no time: what makes a start slow is what
it imports, and ``tests/test_architecture.py`` holds that.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

import click

from udacisense.cli.main import COMMANDS

IMPORT_LIMIT_S = 0.3
HELP_LIMIT_S = 0.5
PYTHON = "python -c pass"
IMPORT = 'python -c "import udacisense"'


def rows() -> dict[str, tuple[list[str], float | None]]:
    """Return what is timed: name → the process's arguments, and its limit in seconds (None: the interpreter alone)."""
    program = str(Path(sys.executable).with_name("udacisense"))  # what a user starts
    lines: list[list[str]] = [[]]
    for name in COMMANDS:
        lines.append([name])
        command = importlib.import_module(f"udacisense.cli.{name}").command
        if isinstance(command, click.Group):
            lines += [[name, inner] for inner in command.commands]
    made: dict[str, tuple[list[str], float | None]] = {
        PYTHON: ([sys.executable, "-c", "pass"], None),
        IMPORT: ([sys.executable, "-c", "import udacisense"], IMPORT_LIMIT_S),
    }
    for line in lines:
        made[" ".join(["udacisense", *line, "--help"])] = ([program, *line, "--help"], HELP_LIMIT_S)
    return made


def measure(rounds: int) -> dict[str, list[float]]:
    """Run every row once for its files to be in memory, then ``rounds`` times in shuffled order; seconds, raw."""
    timed = rows()
    samples: dict[str, list[float]] = {name: [] for name in timed}
    for number in range(-1, rounds):
        order = list(timed)
        random.Random(number).shuffle(order)  # noqa: S311 - an order, not a secret
        for name in order:
            start = time.perf_counter()
            subprocess.run(timed[name][0], stdout=subprocess.DEVNULL, check=True)
            if number >= 0:
                samples[name].append(time.perf_counter() - start)
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the import and the help of every command.")
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    load = os.getloadavg()[0]
    samples = measure(max(1, given.rounds))
    limits = {name: limit for name, (_, limit) in rows().items()}
    width = max(map(len, samples))
    sys.stdout.write(f"median and slowest of {max(1, given.rounds)} processes; load {load:.1f} when it began\n")
    slow = []
    for name, seconds in samples.items():
        median, limit = statistics.median(seconds), limits[name]
        is_slow = limit is not None and median > limit
        slow += [name] if is_slow else []
        held = "" if limit is None else f"limit {limit:.1f} s{'  TOO SLOW' if is_slow else ''}"
        sys.stdout.write(f"{name:<{width}}  {median:.3f} s  {max(seconds):.3f} s  {held}\n")
    sys.exit(1 if slow else 0)


if __name__ == "__main__":
    main()
