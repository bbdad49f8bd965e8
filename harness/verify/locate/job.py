"""What ``--locate`` is asked, and what it answers."""

from __future__ import annotations

from typing import ClassVar, Literal

from harness.verify.locate.first_difference import Suspect
from udacisense.base.records import Outcome, record

RUNG_FILE = "rung.txt"  # the rung that a worker is at: where a crash happened


@record
class LocateJob:
    """``job.json`` of the worker."""

    bundle: str  # absolute
    variant_id: str
    runner: str
    engine: str | None
    threads: int
    inputs_path: str  # absolute, .npy, float32 (n, 3, H, W) as the variant takes it
    allow_factory: str | None

    FILE_NAME: ClassVar[str] = "job.json"


@record
class RungError:
    """One rung against the one below it."""

    name: str
    max_abs: float | None  # None for the first rung, and where an answer is not finite
    relative: float | None
    outcome: Outcome
    reason: str | None


@record
class Found:
    """``located.json``: where a variant broke."""

    schema_version: Literal[1]
    variant_id: str
    runner: str
    rungs: tuple[RungError, ...]
    rung: str | None  # the first out of tolerance; None: all are within
    suspect: Suspect | None  # inside that rung
    reason: str  # in a sentence
    worst_inputs: tuple[int, ...]  # rows of the inputs, worst first

    FILE_NAME: ClassVar[str] = "located.json"
