"""What the process that looks into files is asked, and what it answers."""

from __future__ import annotations

from typing import ClassVar

from udacisense.base.records import record


@record
class InsideJob:
    """``job.json``."""

    bundle: str  # absolute
    variant_ids: tuple[str, ...]
    allow_factory: str | None

    FILE_NAME: ClassVar[str] = "job.json"


@record
class Inside:
    """What was found in one file."""

    problems: tuple[str, ...] = ()  # what is wrong in it
    not_made: tuple[str, ...] = ()  # checks that ended with an error, and this error
    notes: tuple[str, ...] = ()  # checks that such a file cannot be put to


@record
class InsideResult:
    """``result.json``."""

    found: dict[str, Inside]  # by variant id
