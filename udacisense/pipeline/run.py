"""The pipeline: compression steps in order, each measured, kept on disk and resumed after."""

from __future__ import annotations

import copy
import inspect
import logging
import re
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import nn

from udacisense.base.files import atomic_path, locked, remove
from udacisense.base.records import Artifact, ModelSpec, Scalar, Signature, StageRecord, read_json, record, write_record
from udacisense.data.images import edge_px, make_signature
from udacisense.errors import InputError
from udacisense.measure.metrics import confidence_of
from udacisense.measure.recording import latencies_by_turns, record_stage
from udacisense.measure.stats import Interval, ratio
from udacisense.models.artifact import save_artifact
from udacisense.models.build import build_model
from udacisense.pipeline.link import Link, described, floats_of, model_of, shared
from udacisense.pipeline.requirements import Requirement, check_requirements
from udacisense.pipeline.step import Step, failure, perform
from udacisense.pipeline.store import KeptStep, StepStore, fingerprint_step, has_architecture, write_torchscript
from udacisense.stages.contract import Batch, Kind, StepContext, StepFunction, StepResult, kind_of
from udacisense.training.checkpoint import state_sha256
from udacisense.training.compute import Compute, is_leader, launch, meet
from udacisense.training.run import ARTIFACT_FOLDER

log = logging.getLogger("udacisense")

FINAL_NAME = "final.pt"
_CONFIDENCE = 0.95  # of the ratios of times, as of every accuracy
_STEP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@record
class RunRecord:
    """``result.json``: the figures of a finished run."""

    schema_version: Literal[1]
    name: str
    fingerprint: str  # of everything that the run depends on
    baseline: StageRecord
    stages: tuple[StageRecord, ...]
    requirements: tuple[Requirement, ...]
    # Of each stage's time to the baseline's, paired by round, with 95 % intervals: all were timed by turns in one go.
    # Empty in records of 0.1.0: there the baseline and the last stage alone were.
    time_ratios: tuple[Interval, ...] = ()

    FILE_NAME: ClassVar[str] = "result.json"


@dataclass(frozen=True, kw_only=True)
class PipelineResult:
    """What a pipeline leaves."""

    model: nn.Module  # after the last step, in eval mode on the CPU
    baseline: StageRecord
    stages: tuple[StageRecord, ...]
    requirements: tuple[Requirement, ...]
    time_ratios: tuple[Interval, ...]  # see RunRecord
    artifact: Artifact | None  # None without an output folder, or where no spec tells how to build the model again


class OptimizationPipeline:
    """Compression steps that run one after the other on a trained model.

    ::

        pipeline = OptimizationPipeline("mine", model, train_loader, test_loader, class_names, 32)
        pipeline.add_step(step_name="int8", step_function=apply_dynamic_quantization, engine="qnnpack")
        pipeline.add_step(step_name="graph", step_function=apply_graph_optimization)
        result = pipeline.run(device="cpu")

    Args:
        name: what people call it.
        baseline_model: trained, eager, float32; it stays as it is.
        train_loader: augmented batches (images float32 (b, 3, H, W), labels int64 (b,)):
            our ``Batches`` or a DataLoader.
        test_loader: batches for the figures, and nothing else.
        class_names: in output order.
        input_size: H = W in pixels, or a shape (1, 3, H, W) or (3, H, W).
        validation_loader: batches split from the training images, which select models; None: the last epoch is taken.
        spec: how to build ``baseline_model`` again; without it only a result with another spec becomes an artifact.
        signature: of the model; None makes one with ImageNet's mean and std.
        seed: of every random number that a step draws.
        data_fingerprint: text that identifies data, batch size and augmentation, or what returns it; to keep steps.
        training_fingerprint: the same without the test images. Where it is given, a step that learns from its own
            teacher and its own initial weights is taken up whatever the baseline and the test images are.

    Raises:
        InputError: the model is not eager float32, or the input size is none.
    """

    def __init__(  # noqa: PLR0917 - the first six are the interface that people know
        self,
        name: str,
        baseline_model: nn.Module,
        train_loader: Iterable[Batch],
        test_loader: Iterable[Batch],
        class_names: Iterable[str],
        input_size: int | tuple[int, ...],
        *,
        validation_loader: Iterable[Batch] | None = None,
        spec: ModelSpec | None = None,
        signature: Signature | None = None,
        seed: int = 0,
        data_fingerprint: str | Callable[[], str] | None = None,
        training_fingerprint: str | Callable[[], str] | None = None,
    ) -> None:
        if kind_of(baseline_model) is not Kind.EAGER_FLOAT:
            raise InputError("A pipeline starts from an eager float32 model; this one is quantised or TorchScript.")
        self.name = name
        self.baseline_model = copy.deepcopy(baseline_model).cpu().eval()
        self.train_loader, self.test_loader, self.validation_loader = train_loader, test_loader, validation_loader
        self.class_names = tuple(class_names)
        self.signature = signature or make_signature(self.class_names, size_px=edge_px(input_size))
        if spec is not None and not has_architecture(baseline_model, build_model(spec)):
            raise InputError("The spec given to the pipeline builds another architecture than its baseline_model has.")
        self.spec, self.seed = spec, seed
        self._given_fingerprints = (data_fingerprint, training_fingerprint)
        self._steps: list[Step] = []

    def add_step(self, *, step_name: str, step_function: StepFunction, **options: object) -> OptimizationPipeline:
        """Add a step; see :mod:`udacisense.stages.contract` for what a step function is.

        Raises:
            InputError: the name is taken or no file name, or the function has no such option.
        """
        if not _STEP_NAME.fullmatch(step_name) or step_name == "baseline":
            raise InputError(f"A step cannot be called {step_name!r}; use letters, digits, '-', '_' and '.'.")
        if any(step.name == step_name for step in self._steps):
            raise InputError(f"The pipeline {self.name!r} already has a step {step_name!r}.")
        parameters = inspect.signature(step_function).parameters.values()
        known = [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
        unknown = [key for key in options if key not in known]
        if unknown:
            raise InputError(
                f"The step {step_name!r} has no option {unknown[0]!r}; it takes {', '.join(known) or 'none'}."
            )
        self._steps.append(Step(name=step_name, function=step_function, options=options))
        return self

    def run(
        self, device: str | Compute = "cpu", *, output_dir: Path | None = None, resume: bool = True
    ) -> PipelineResult:
        """Run the steps, measure after each, and keep what is finished.

        Args:
            device: where steps train (cpu, cuda, mps, auto), or all that they compute on; figures are always measured
                on the CPU, and what steps train on changes rounding alone: finished ones are taken whatever made them.
            output_dir: where everything is kept; None keeps nothing. It then holds ``steps/`` (see
                :mod:`udacisense.pipeline.store`), ``artifact/`` (the last float32 weights, which exporters start from),
                ``final.pt`` (where the last step leaves TorchScript) and ``result.json``.
            resume: take finished steps of the same configuration, data and inputs from ``output_dir``.

        Raises:
            InputError: the steps do not fit together, the device is not there, or another run writes to ``output_dir``.
            StageError: a step failed; it names the step, the cause, and what is kept where.
        """
        compute = device if isinstance(device, Compute) else Compute(device=device)
        self._check(compute, output_dir)
        launch(compute)
        with locked(output_dir) if output_dir is not None and is_leader() else nullcontext():
            return self._run(compute, output_dir, resume=resume)

    def _run(self, compute: Compute, output_dir: Path | None, *, resume: bool) -> PipelineResult:
        self.data_fingerprint, self.training_fingerprint = (f() if callable(f) else f for f in self._given_fingerprints)
        store = StepStore(output_dir, self.baseline_model) if output_dir is not None else None
        links = [self._first_link(store, resume=resume)]
        for index, step in enumerate(self._steps, start=1):
            try:
                links.append(self._next_link(links, step, store, compute=compute, resume=resume))
            except Exception as exc:
                raise failure(self._steps, index, exc, store) from exc
        final = self._model(links, len(links) - 1, store)
        if not is_leader():
            return self._told(final, output_dir)
        figures = self._figures(links, store, output_dir if resume else None)
        artifact = self._keep(links, figures, final, store, output_dir)
        meet()
        return self._result(final, figures, artifact)

    def _told(self, final: nn.Module, output_dir: Path | None) -> PipelineResult:
        """Return what the first process found, in another one."""
        assert output_dir is not None, "it was checked"
        meet()
        place = output_dir / ARTIFACT_FOLDER / Artifact.FILE_NAME
        artifact = read_json(Artifact, place) if place.is_file() else None
        return self._result(final, read_json(RunRecord, output_dir / RunRecord.FILE_NAME), artifact)

    @staticmethod
    def _result(final: nn.Module, figures: RunRecord, artifact: Artifact | None) -> PipelineResult:
        return PipelineResult(
            model=final,
            baseline=figures.baseline,
            stages=figures.stages,
            requirements=figures.requirements,
            time_ratios=figures.time_ratios,
            artifact=artifact,
        )

    def _check(self, compute: Compute, output_dir: Path | None) -> None:
        """Refuse, before hours of training, what cannot work."""
        compute.check()
        if compute.processes > 1 and output_dir is None:
            raise InputError("Several processes meet in an output folder; give one, or train on one device.")
        if not self._steps:
            raise InputError(f"The pipeline {self.name!r} has no steps; add one with add_step.")
        kind: Kind | None = Kind.EAGER_FLOAT
        for step in self._steps:
            if kind is not None:
                step.require(kind)
            kind = step.row.produces if step.row is not None else None
        if output_dir is not None and self._given_fingerprints[0] is None:
            raise InputError("Keeping steps needs data_fingerprint, so that a rerun with other data is noticed.")

    # ---- steps

    def _first_link(self, store: StepStore | None, *, resume: bool) -> Link:
        model = self.baseline_model
        inputs = f"{state_sha256(model)} {self.data_fingerprint} {self.seed} {self.class_names}"
        fingerprint = fingerprint_step("baseline", record_stage, {}, inputs=inputs)
        kept = store.find(0, "baseline", fingerprint) if store is not None and resume else None
        if kept is None and is_leader():
            figures = self._measure("baseline", model, config={}, duration_s=0.0)
            if store is not None:
                kept = store.keep(0, "baseline", fingerprint, StepResult(model=model, spec=self.spec), figures)
        kept = shared(store, 0, "baseline", fingerprint, kept)
        figures = kept.record if kept is not None else figures
        return Link(step=None, fingerprint=fingerprint, spec=self.spec, record=figures, model=model, kept=kept)

    def _next_link(
        self, links: list[Link], step: Step, store: StepStore | None, *, compute: Compute, resume: bool
    ) -> Link:
        """Take a finished step from disk, or run it, measure it and keep it."""
        index, before = len(links), links[-1]
        fingerprints = self._fingerprints(step, before) if store is not None else ("",)
        kept = store.find(index, step.name, *fingerprints) if store is not None and resume else None
        meet()  # all have looked before one writes
        if store is not None and kept is not None:
            log.info("step %s: finished before, taken from %s", step.name, store.folder(index, step.name))
            kept = self._with_own_figures(store, index, step, kept)
            return Link(
                step=step, fingerprint=kept.fingerprint, spec=kept.spec, record=kept.record, model=None, kept=kept
            )
        fingerprint = fingerprints[0]
        log.info("step %s (%d of %d)", step.name, index, len(self._steps))
        model = self._model(links, index - 1, store)
        context = self._context(compute, fingerprint, store, resume=resume)
        start = time.perf_counter()
        result = described(perform(step, model, context), before.spec)
        if is_leader():
            took, config = time.perf_counter() - start, {**step.described(), **result.notes}
            figures = self._measure(step.name, result.model, config=config, duration_s=took, before=before.record)
            if store is not None:
                data = self.data_fingerprint if len(fingerprints) > 1 else None
                kept = store.keep(index, step.name, fingerprint, result, figures, data=data)
        kept = shared(store, index, step.name, fingerprint, kept)
        figures = kept.record if kept is not None else figures
        return Link(step=step, fingerprint=fingerprint, spec=result.spec, record=figures, model=result.model, kept=kept)

    def _fingerprints(self, step: Step, before: Link) -> tuple[str, ...]:
        """Return by what a finished step is recognised; it is kept under the first."""
        chained = fingerprint_step(step.name, step.function, step.options, inputs=f"{before.chained} cpu")
        if self.training_fingerprint is None or not step.is_apart:
            return (chained,)
        alone = f"{self.training_fingerprint} {self.seed} {self.class_names}"
        return fingerprint_step(step.name, step.function, step.options, inputs=alone), chained

    def _with_own_figures(self, store: StepStore, index: int, step: Step, kept: KeptStep) -> KeptStep:
        """Return a kept step with figures of this pipeline's test images."""
        if kept.data in (None, self.data_fingerprint) or not is_leader():
            return kept
        model, was = store.load(index, step.name, kept), kept.record
        figures = self._measure(step.name, model, config=was.config, duration_s=was.duration_s)
        return store.restate(index, step.name, replace(kept, record=figures, data=self.data_fingerprint))

    def _model(self, links: list[Link], index: int, store: StepStore | None) -> nn.Module:
        return model_of(links, index, store, lambda link: self._again(link, store))

    def _again(self, link: Link, store: StepStore | None) -> StepContext:
        return self._context(Compute(), link.fingerprint, store, resume=True)

    def _context(self, compute: Compute, fingerprint: str, store: StepStore | None, *, resume: bool) -> StepContext:
        return StepContext(
            train=self.train_loader,
            validation=self.validation_loader,
            class_names=self.class_names,
            input_shape=self.signature.input_shape,
            compute=compute,
            seed=self.seed,
            fingerprint=fingerprint,
            work_dir=store.work / fingerprint if store is not None else None,
            resume=resume,
        )

    def _measure(
        self,
        name: str,
        model: nn.Module,
        *,
        config: Mapping[str, Scalar],
        duration_s: float,
        before: StageRecord | None = None,
    ) -> StageRecord:
        # Frozen TorchScript has folded its parameters into constants: as many as the step before had.
        is_folded = before is not None and kind_of(model) is Kind.TORCHSCRIPT
        return record_stage(
            model,
            stage=name,
            config=config,
            duration_s=duration_s,
            test=self.test_loader,
            class_names=self.class_names,
            input_shape=self.signature.input_shape,
            counts=(before.parameters, before.nonzero_parameters) if before is not None and is_folded else None,
        )

    # ---- the result

    def _figures(self, links: list[Link], store: StepStore | None, folder: Path | None) -> RunRecord:
        """Return the run's figures; those of an equal run in ``folder`` are not measured again."""
        fingerprint = links[-1].chained
        if any(link.kept is not None and link.kept.data is not None for link in links):
            fingerprint += f" {links[0].chained}"  # a step that learns apart does not tell which baseline was there
        if folder is not None and (folder / RunRecord.FILE_NAME).is_file():
            try:
                found = read_json(RunRecord, folder / RunRecord.FILE_NAME)
            except InputError as exc:
                log.warning("the final figures are measured again: %s", exc)
            else:
                if found.fingerprint == fingerprint:
                    return replace(found, name=self.name)
        models = [self.baseline_model, *(self._model(links, i, store) for i in range(1, len(links)))]
        rounds = latencies_by_turns(models, self.signature.input_shape)
        baseline, *stages = (
            replace(link.record, latency_ms=statistics.median(times.values()))
            for link, times in zip(links, rounds, strict=True)
        )
        found_ratios = (ratio(times, rounds[0], seed=self.seed, confidence=_CONFIDENCE) for times in rounds[1:])
        ratios = tuple(found for found in found_ratios if found is not None)
        return RunRecord(
            schema_version=1,
            name=self.name,
            fingerprint=fingerprint,
            baseline=baseline,
            stages=tuple(stages),
            requirements=check_requirements(baseline, stages[-1], ratios[-1]),
            time_ratios=ratios,
        )

    def _keep(
        self, links: list[Link], figures: RunRecord, final: nn.Module, store: StepStore | None, output_dir: Path | None
    ) -> Artifact | None:
        if store is None or output_dir is None:
            return None
        if isinstance(final, torch.jit.ScriptModule):
            with atomic_path(output_dir / FINAL_NAME) as partial:
                write_torchscript(final, partial)
        artifact = self._keep_artifact(links, figures, store, output_dir / ARTIFACT_FOLDER)
        write_record(output_dir / RunRecord.FILE_NAME, figures)  # last: it says that the run is whole
        remove(store.work)
        return artifact

    def _keep_artifact(self, links: list[Link], figures: RunRecord, store: StepStore, folder: Path) -> Artifact | None:
        """Keep the float32 weights that exporters start from, of the last step that left any, and their recipe."""
        index = max(i for i, link in enumerate(links) if link.has_floats)
        spec, master = links[index].spec, floats_of(links, index, store, lambda link: self._again(link, store))
        if spec is None or not has_architecture(master, build_model(spec)):
            log.warning("no artifact is written: give the pipeline (or its last training step) a ModelSpec.")
            return None
        return save_artifact(
            folder,
            name=self.name,
            model=master,
            spec=spec,
            signature=self.signature,
            baseline=figures.baseline,
            stages=figures.stages,
            seed=self.seed,
            confidence=None if self.validation_loader is None else confidence_of(master, self.validation_loader),
            recipes={
                link.kept.recipe: store.recipe(i, link.step.name, link.kept)
                for i, link in enumerate(links)
                if i >= index and link.step is not None and link.kept is not None and link.kept.recipe is not None
            },
        )
