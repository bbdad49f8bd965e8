"""Where workers meet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from udacisense.errors import InputError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage


@dataclass(frozen=True, kw_only=True)
class Place:
    """The study that workers share, and how patient they are."""

    study: str | None = None  # see udacisense.pipeline.search.storage.open_storage; None: a journal in the run's folder
    wait_s: float = 120.0  # for a storage that has gone away
    grace_s: float = 60.0  # until the trial of a worker without a sign of life is taken up again

    def __post_init__(self) -> None:
        """Refuse what nobody can wait for."""
        if not 0 <= self.wait_s < float("inf") or not 1 <= self.grace_s < float("inf"):
            raise InputError(
                f"The wait is {self.wait_s:g} s and the grace {self.grace_s:g} s; allowed are from 0 and from 1 on."
            )

    def check(self) -> None:
        """Refuse a place that could not be opened, without opening it."""
        from udacisense.pipeline.search.storage import check_place

        check_place(self.study)

    def open(self, folder: Path) -> BaseStorage:
        """Open the storage of a run in a folder."""
        from udacisense.pipeline.search.storage import open_storage

        return open_storage(self.study, folder, wait_s=self.wait_s)
