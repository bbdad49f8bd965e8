"""ARM instructions per call: how much work a phone's library does, whatever machine counts it.

A plugin of qemu counts the instructions that the process of a format's arm64 library executes.
The count is read whenever an answer is written, so requests of few and of many calls, in the same process, differ by
the calls alone: start-up is no part of it. It is a yardstick that no noise of the host touches, and it is not a time:
it knows nothing of caches or clocks.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from exporters.formats.contract import SUFFIXES
from harness.runtime.catalogue import RUNTIMES, runtime
from harness.runtime.session import LibrarySession
from harness.runtime.setup import Installed, find_folder, library_version, unusable
from udacisense.base.records import read_json, record
from udacisense.errors import InferenceError, InputError

#: Format of a file → the runtime that counts it.
COUNTERS: dict[str, str] = {form: row.name for row in RUNTIMES.values() if row.emulator for form in row.formats}
_FEW, _MANY = 1, 5  # calls of the two requests of a run
_MIN_RUNS, _MAX_RUNS = 3, 12
MAX_SPREAD_FRACTION = 0.01


@record
class InstructionCount:
    """ARM instructions of one call, all threads together."""

    instructions_per_call: float  # median over the runs
    spread_fraction: float  # of the runs: (largest - smallest) / median
    runs: int
    calls: int  # that each run's difference covers
    threads: int
    library: str
    cpu: str  # as emulated


def count(
    path: Path,
    inputs: NDArray[np.float32],
    *,
    threads: int = 1,
    batch_size: int = 1,
    max_spread_fraction: float = MAX_SPREAD_FRACTION,
    timeout_s: float = 600.0,
) -> InstructionCount:
    """Count the ARM instructions of one call of a file in its arm64 library, which :data:`COUNTERS` names.

    A run asks for 1 call and for 5 and takes the difference of the counts. Runs are repeated, at least 3, until the
    last 3 lie within ``max_spread_fraction`` of their median.

    Args:
        path: the file.
        inputs: float32 (n, 3, H, W).
        threads: for the library; all are counted.
        batch_size: so many of the first inputs are fed.
        max_spread_fraction: of the runs that are reported.
        timeout_s: for one request.

    Raises:
        InputError: the runtime is not set up, or its qemu takes no plugins.
        LoadError: the file would not load.
        InferenceError: it would not run, or 12 runs did not settle.
    """
    name = next(name for form, name in COUNTERS.items() if SUFFIXES[form] == path.suffix)
    folder = folder_that_counts(name)
    with tempfile.TemporaryDirectory(prefix="udacisense-count-") as scratch:
        counts = Path(scratch) / "counts"
        with LibrarySession(
            runtime(name),
            folder,
            path,
            library_version=library_version(folder),
            engine=None,
            threads=threads,
            answer_timeout_s=timeout_s,
            count_to=counts,
        ) as session:
            runs, per_call = _settled(session, inputs[:batch_size], counts, max_spread_fraction, path.name)
            return InstructionCount(
                instructions_per_call=median(per_call),
                spread_fraction=spread(per_call),
                runs=runs,
                calls=_MANY - _FEW,
                threads=threads,
                **{key: str(session.actual[key]) for key in ("library", "cpu")},
            )


def _settled(
    session: LibrarySession, image: NDArray[np.float32], counts: Path, max_spread_fraction: float, name: str
) -> tuple[int, list[float]]:
    """Return how many runs it took, and the instructions of a call in the last ones, which agree."""
    session.run(image, calls=_FEW)  # what the library does once, at the first calls
    per_call: list[float] = []
    while len(per_call) < _MAX_RUNS:
        totals = [_total(counts)]
        for calls in (_FEW, _MANY):
            session.run(image, calls=calls)
            totals.append(_total(counts))
        few, many = totals[1] - totals[0], totals[2] - totals[1]
        per_call.append((many - few) / (_MANY - _FEW))
        last = per_call[-_MIN_RUNS:]
        if len(last) == _MIN_RUNS and spread(last) <= max_spread_fraction:
            return len(per_call), last
    raise InferenceError(
        f"{name}: {_MAX_RUNS} counts did not settle; the last {_MIN_RUNS} still spread by "
        f"{100 * spread(per_call[-_MIN_RUNS:]):.1f} %."
    )


def spread(values: list[float]) -> float:
    """Return (largest - smallest) / median."""
    return (max(values) - min(values)) / median(values)


def _total(counts: Path) -> int:
    return int(counts.read_text().splitlines()[-1].split()[0])


def folder_that_counts(name: str = COUNTERS["ptl"]) -> Path:
    """Return the folder of a runtime that counts.

    Raises:
        InputError: the runtime is not set up, or its qemu takes no plugins.
    """
    if (reason := cannot_count(name)) is not None:
        raise InputError(f"ARM instructions cannot be counted: {reason}.")
    folder = find_folder(name)
    assert folder is not None
    return folder


def cannot_count(name: str) -> str | None:
    """Return why a runtime cannot count here, and what would help; None where it can."""
    if (reason := unusable(name)) is not None:
        return reason
    folder = find_folder(name)
    assert folder is not None
    if read_json(Installed, folder / "runtime.json").counts_instructions:
        return None
    return (
        "this qemu-aarch64 takes no plugins (a static one does not); install the dynamic one with `sudo apt-get "
        f"install qemu-user`, then run `udacisense runtime add {name}`"
    )
