"""One finished step of a pipeline's run, in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from udacisense.base.records import ModelSpec, StageRecord
from udacisense.models.build import build_model
from udacisense.models.widths import fitted_spec
from udacisense.pipeline.step import Step, perform
from udacisense.pipeline.store import KeptStep, StepStore
from udacisense.stages.contract import Kind, StepContext, StepResult, kind_of
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
    def has_floats(self) -> bool:
        """Whether it has float32 weights of its own: an int8 step may have learned some."""
        is_learned = self.kind is Kind.EAGER_INT8 and self.kept is not None and self.kept.weights is not None
        return is_learned or self.kind is Kind.EAGER_FLOAT

    @property
    def chained(self) -> str:
        """What the next step's fingerprint depends on: this step, and the weights that it really left."""
        data = f" {self.kept.data}" if self.kept is not None and self.kept.data is not None else ""
        return f"{self.fingerprint} {self.kept.weights_sha256 if self.kept is not None else None}{data}"


def model_of(
    links: Sequence[Link], index: int, store: StepStore | None, context: Callable[[Link], StepContext]
) -> nn.Module:
    """Return the model of a finished step: from memory, from disk, or packed again from float32 weights."""
    link = links[index]
    if link.model is None:
        assert store and link.kept and link.step, "it was kept, or it would be loaded"  # noqa: PT018
        kept, name = link.kept, link.step.name
        if kept.recipe is not None:
            master, asked = floats_of(links, index, store, context), context(link)
            link.model = store.packed(index, name, kept, master, example=torch.zeros(asked.input_shape))
        elif kept.weights is not None:
            link.model = store.load(index, name, kept)
        else:
            link.model = perform(link.step, model_of(links, index - 1, store, context), context(link)).model
    return link.model


def floats_of(links: Sequence[Link], index: int, store: StepStore, context: Callable[[Link], StepContext]) -> nn.Module:
    """Return the float32 model that a step left, or that its int8 one is packed from."""
    link = links[index]
    if link.kind is Kind.EAGER_FLOAT:
        return model_of(links, index, store, context)
    assert link.kept and link.step, "it was kept"  # noqa: PT018
    if link.kept.weights is not None:
        return store.load(index, link.step.name, link.kept)
    return floats_of(links, index - 1, store, context)


def described(result: StepResult, spec: ModelSpec | None) -> StepResult:
    """Return a step's result with a spec: its own, else the one before it, with the shapes that the step left."""
    if result.spec is None and spec is not None and kind_of(result.model) is Kind.EAGER_FLOAT:
        spec = fitted_spec(spec, result.model, build_model(spec))
    return replace(result, spec=result.spec or spec)


def shared(store: StepStore | None, index: int, name: str, fingerprint: str, kept: KeptStep | None) -> KeptStep | None:
    """Return the step that the first process kept, in every process of a run."""
    meet()
    return kept if store is None or is_leader() else store.find(index, name, fingerprint)
