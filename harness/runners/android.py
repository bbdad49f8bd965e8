"""PyTorch Mobile's and TensorFlow Lite's Android libraries, by the runtimes set up here: x86_64 and arm64-v8a builds.

The first runs natively, with the kernels of the Android emulator on a PC, and is timed. The second runs under qemu and
gives a phone's answers; its speed means nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from harness.runners.table import FloatArray, checked_input, checked_output
from harness.runtime.catalogue import runtime
from harness.runtime.session import LibrarySession
from harness.runtime.setup import find_folder, library_version, unusable
from udacisense.base.records import Scalar
from udacisense.errors import LoadError

if TYPE_CHECKING:
    from exporters.bundle.manifest import Loadable


class VariantSession:
    """A variant's file in the Android library."""

    def __init__(self, session: LibrarySession, variant: Loadable) -> None:
        self._session = session
        self._variant = variant

    @property
    def actual(self) -> Mapping[str, Scalar]:
        """Engine, threads, library, ABI."""
        return self._session.actual

    @property
    def model_pid(self) -> int:
        """The library's own process; see :func:`harness.cell.measure.model_pid`."""
        return self._session.model_pid

    def run(self, batch: FloatArray) -> FloatArray:
        """Answer a batch; see :class:`harness.runners.table.Session`."""
        values = checked_input(batch, self._variant)
        return checked_output(self._session.run(values), batch, self._variant)


def unavailable(runner: str) -> str | None:
    """Say why the runtime cannot be used here."""
    return unusable(runner)


def load(runner: str, path: Path, variant: Loadable, *, engine: str | None, threads: int) -> VariantSession:
    """Load a file in the Android library of the runtime ``runner``.

    Raises:
        LoadError: the runtime cannot be used here, or its library would not load the file.
    """
    if (reason := unusable(runner)) is not None:
        raise LoadError(f"{path.name} cannot be loaded: {reason}.")
    return VariantSession(open_session(runner, path, engine=engine, threads=threads), variant)


def open_session(name: str, path: Path, *, engine: str | None = None, threads: int = 1) -> LibrarySession:
    """Open a file in a runtime that is set up.

    Raises:
        LoadError: the runtime is not set up, or its library would not load the file.
    """
    folder = find_folder(name)
    if folder is None:
        raise LoadError(f"{path.name} cannot be loaded: {unusable(name)}.")
    return LibrarySession(
        runtime(name), folder, path, library_version=library_version(folder), engine=engine, threads=threads
    )
