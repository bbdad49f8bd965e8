"""The two Android runners' common half: open a session of a runtime that is set up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from harness.android.catalogue import runtime
from harness.android.session import LibrarySession
from harness.android.setup import find_folder, library_version, unusable
from harness.runners import FloatArray, checked_input, checked_output
from udacisense.errors import LoadError
from udacisense.types import Scalar

if TYPE_CHECKING:
    from exporters.manifest import Variant


class VariantSession:
    """A variant's file in the Android library."""

    def __init__(self, session: LibrarySession, variant: Variant) -> None:
        self._session = session
        self._variant = variant

    @property
    def actual(self) -> Mapping[str, Scalar]:
        """Engine, threads, library, ABI."""
        return self._session.actual

    @property
    def model_pid(self) -> int:
        """The library's own process; see :func:`harness.timing.model_pid`."""
        return self._session.model_pid

    def run(self, batch: FloatArray) -> FloatArray:
        """Answer a batch; see :class:`harness.runners.Session`."""
        values = checked_input(batch, self._variant)
        return checked_output(self._session.run(values), batch, self._variant)


def load(name: str, path: Path, variant: Variant, *, engine: str | None, threads: int) -> VariantSession:
    """Load a ``.ptl`` in the Android library of the runtime ``name``.

    Raises:
        LoadError: the runtime cannot be used here, or its library would not load the file.
    """
    if (reason := unusable(name)) is not None:
        raise LoadError(f"{path.name} cannot be loaded: {reason}.")
    return VariantSession(open_session(name, path, engine=engine, threads=threads), variant)


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
