"""What a search found, as a record."""

from __future__ import annotations

import statistics
from typing import ClassVar, Literal

from udacisense.base.records import Count, Fraction, ModelSpec, StageRecord, record
from udacisense.pipeline.search.cost import Cost, Limits


@record
class TriedNetwork:
    """One network that was trained for a short time."""

    trial: Count
    model: ModelSpec
    cost: Cost
    outcome: Literal["finished", "halved", "failed"]  # halved: it ended early, because others were better by then
    reason: str | None  # why it failed
    epochs: Count  # that it was trained
    validation_loss: float | None  # of its best epoch
    validation_top1_fraction: Fraction | None  # of the same epoch


@record
class Finalist:
    """One of the best networks, trained at full length with one seed, as its pipeline leaves it."""

    trial: Count
    seed: Count
    validation_loss: float  # of the distillation's best epoch
    figures: StageRecord  # of the pipeline's last stage, on the test images
    arm_instructions: float | None  # of one call as plain .ptl, counted
    arm_reason: str | None  # why they were not counted


@record
class SearchRecord:
    """``search.json``."""

    schema_version: Literal[1]
    family: str
    pipeline: str  # whose recipe trained them
    limits: Limits
    epochs: Count  # of a short training
    final_epochs: Count | None  # None: the pipeline's own
    n_untrained: Count  # networks that break a limit or came twice, and were not trained
    baseline: StageRecord
    tried: tuple[TriedNetwork, ...]  # by trial
    finalists: tuple[Finalist, ...]  # by trial and seed

    FILE_NAME: ClassVar[str] = "search.json"

    @property
    def best(self) -> TriedNetwork | None:
        """The network whose finalists have the lowest validation loss, the mean of their seeds; None without any."""
        losses: dict[int, list[float]] = {}
        for row in self.finalists:
            losses.setdefault(row.trial, []).append(row.validation_loss)
        if not losses:
            return None
        number = min(losses, key=lambda trial: statistics.mean(losses[trial]))
        return next(row for row in self.tried if row.trial == number)
