"""One finished step of a pipeline's run, in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from udacisense.base.records import ModelSpec, StageRecord
from udacisense.models.build import build_model
from udacisense.models.shapes import fitted_spec
from udacisense.pipeline.step import Step
from udacisense.pipeline.store import KeptStep, StepStore
from udacisense.stages.contract import Kind, StepResult, kind_of
from udacisense.training.compute import is_leader, meet


@dataclass(kw_only=True)
class Link:
    """One finished step of a run; the first link is the baseline."""

    step: Step | None  # None: the baseline
    fingerprint: str
    spec: ModelSpec | None  # None: the architecture of the baseline, or one that nobody described
    record: StageRecord
    model: nn.Module | None  # None: kept, and not loaded so far
    kept: KeptStep | None

    @property
    def kind(self) -> Kind:
        """The form of the model, loaded or not."""
        if self.model is not None:
            return kind_of(self.model)
        assert self.kept is not None
        return self.kept.kind

    @property
    def chained(self) -> str:
        """What the next step's fingerprint depends on: this step, and the weights that it really left."""
        data = f" {self.kept.data}" if self.kept is not None and self.kept.data is not None else ""
        return f"{self.fingerprint} {self.kept.weights_sha256 if self.kept is not None else None}{data}"


def described(result: StepResult, spec: ModelSpec | None) -> StepResult:
    """Return a step's result with a spec: its own, else the one before it, with the shapes that the step left."""
    if result.spec is None and spec is not None and kind_of(result.model) is Kind.EAGER_FLOAT:
        spec = fitted_spec(spec, result.model, build_model(spec))
    return replace(result, spec=result.spec or spec)


def shared(store: StepStore | None, index: int, name: str, fingerprint: str, kept: KeptStep | None) -> KeptStep | None:
    """Return the step that the first process kept, in every process of a run."""
    meet()
    return kept if store is None or is_leader() else store.find(index, name, fingerprint)
