"""The search: many short trainings, halved as they go, then the best few at full length."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState
from torch import nn

from udacisense.base.files import locked, remove
from udacisense.base.records import Artifact, ModelSpec, from_json, read_json, record, to_json, write_record
from udacisense.data.batches import evaluation_batches
from udacisense.data.images import DataSet
from udacisense.errors import InputError, TrainingError, did_you_mean
from udacisense.measure.counts import count_parameters
from udacisense.measure.estimate import Estimate
from udacisense.pipeline.plan import changed, plan_pipeline
from udacisense.pipeline.recipes import find_pipeline
from udacisense.pipeline.run import RunRecord
from udacisense.pipeline.search.cost import Cost, Limits, cost_of
from udacisense.pipeline.search.place import Place
from udacisense.pipeline.search.record import Finalist, SearchRecord, TriedNetwork
from udacisense.pipeline.search.space import FAMILIES, Family, Task, least_network
from udacisense.pipeline.search.storage import open_study
from udacisense.pipeline.search.work import UntrainedError, Worker, claim, error_of, is_trained, share
from udacisense.pipeline.start import Baseline, PipelineOptions, load_baseline
from udacisense.stages.contract import StepContext
from udacisense.stages.distill import apply_knowledge_distillation, student_spec
from udacisense.training.checkpoint import state_sha256
from udacisense.training.compute import Compute
from udacisense.training.run import (
    ARTIFACT_FOLDER,
    estimate_training,
    images_an_epoch,
    spec_text,
    training_split,
)
from udacisense.training.supervision import Sources, Supervision, load_supervision
from udacisense.training.types import EpochRecord, History

Count = Callable[[Path], tuple[float | None, str | None]]  # an artifact's folder → ARM instructions, or why not

_HALVING = 3  # of three networks that come as far, one goes on


@record
class SearchOptions:
    """What is asked of a search beside its baseline and data. What a person sets by hand has defaults here."""

    family: str = "blocks"
    limits: Limits = field(default_factory=lambda: Limits(parameters=None, file_bytes=None, arm_instructions=None))
    trials: int = 60  # networks that are trained
    finalists: int = 3  # of them at full length
    epochs: int = 9  # of a short training
    final_epochs: int | None = None  # None: the pipeline's own
    seeds: tuple[int, ...] = (0,)  # of the finalists
    seed: int = 0  # of the choices and of the short trainings
    batch_size: int = 64
    supervision: Supervision = field(default_factory=Supervision)
    place: Place = field(default_factory=Place)
    allow_factory: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be searched with."""
        find_family(self.family)
        for name in ("trials", "finalists", "epochs", "final_epochs", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}; allowed is 1 or more.")


def find_family(name: str) -> Family:
    """Return a row of :data:`FAMILIES`.

    Raises:
        InputError: there is none of that name.
    """
    if name not in FAMILIES:
        hint = did_you_mean(name, FAMILIES)
        raise InputError(f"There is no family {name!r}; choose one of {', '.join(FAMILIES)}.{hint}")
    return FAMILIES[name]


def run_search(
    baseline: Path,
    dataset: DataSet,
    *,
    output_dir: Path,
    options: SearchOptions = SearchOptions(),  # noqa: B008 - frozen
    compute: Compute = Compute(),  # noqa: B008 - frozen
    count: Count | None = None,
) -> SearchRecord:
    """Search on a study, as one of its workers; whoever calls it with the same study joins in.

    Args:
        baseline: an artifact's folder; it teaches, unless the supervision names another teacher.
        dataset: its training images are split 9 : 1 for selection; its test images give the finalists' figures alone.
        output_dir: ``search.json``, the finalists' runs, and the checkpoints of what is being trained.
        options: the rest.
        compute: what training runs on.
        count: counts the ARM instructions of a finalist; None: nobody does.

    Raises:
        InputError: an option, the baseline or the data does not fit, or the study is of another task.
        TrainingError: no network was trained to its end, or a finalist failed.
    """
    if compute.processes > 1:
        raise InputError("A search is spread by starting the same command again with the same --study; use one device.")
    search = _Search(
        baseline=baseline, dataset=dataset, output_dir=output_dir, options=options, compute=compute, count=count
    )
    task, grace_s = search.task, options.place.grace_s
    storage = options.place.open(output_dir)
    halving = optuna.pruners.SuccessiveHalvingPruner(min_resource=first_rung(options.epochs), reduction_factor=_HALVING)
    study = open_study(storage, "search", task, halving)
    if not study.get_trials(deepcopy=False):  # every other network is held against the family's own
        study.enqueue_trial({"resolution_px": dataset.size_px, **search.family.first})

    def reseed(n_trials: int) -> None:
        # By the number of trials: a search that was interrupted chooses as one that was not.
        study.sampler = optuna.samplers.TPESampler(seed=options.seed * 1_000_003 + n_trials)

    worker = Worker(study=study, grace_s=grace_s, before_ask=reseed)
    worker.work(search.explore, wanted=options.trials)
    trials = study.get_trials(deepcopy=False)
    best = _ranked(trials)[: options.finalists]
    chosen = {f"network {t.number}, seed {s}": (t, s) for t in best for s in options.seeds}
    finals = open_study(storage, "finalists", {**task, "final_epochs": options.final_epochs})
    answers = share(finals, list(chosen), lambda key: to_json(search.run_trial(*chosen[key])), grace_s=grace_s)
    finalists = tuple(from_json(Finalist, text, source="the study") for text in answers.values())
    return search.keep(trials, finalists)


def _ranked(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Return the networks that were trained to their end, the best first."""
    best = sorted((t for t in trials if t.state is TrialState.COMPLETE), key=lambda t: (t.value or 0.0, t.number))
    if not best:
        why = next((error for t in trials if (error := error_of(t))), "none was left by the halving")
        raise TrainingError(f"No network was trained to its end: {why}")
    return best


def first_rung(epochs: int) -> int:
    """Return after how many epochs networks are held against each other first: earlier ones say little of the last.

    >>> first_rung(9), first_rung(27), first_rung(6), first_rung(1)
    (3, 3, 2, 1)
    """
    rung = epochs // _HALVING
    while rung >= _HALVING**2:
        rung //= _HALVING
    return max(1, rung)


@dataclass(frozen=True, kw_only=True)
class _Search:
    """What a worker needs to train a network."""

    baseline: Path
    dataset: DataSet
    output_dir: Path
    options: SearchOptions
    compute: Compute
    count: Count | None

    @cached_property
    def family(self) -> Family:
        return find_family(self.options.family)

    @cached_property
    def start(self) -> Baseline:
        return load_baseline(self.baseline, self.dataset, allow_factory=self.options.allow_factory)

    @cached_property
    def sources(self) -> Sources:
        return load_supervision(self.options.supervision, self.start.signature, is_taught=True)

    @cached_property
    def teacher_parameters(self) -> int:
        teacher = self.sources.teacher or self.start.model
        return count_parameters(teacher) if isinstance(teacher, nn.Module) else 0

    @property
    def task(self) -> dict[str, object]:
        """What makes the networks of a study comparable."""
        asked, limits = self.options, self.options.limits
        return {
            "baseline": state_sha256(self.start.model),
            "data": self.dataset.fingerprint + self.sources.identity,
            "supervision": str(sorted(asked.supervision.described().items())),
            "family": asked.family,
            "parameters": limits.parameters,
            "file_bytes": limits.file_bytes,
            "arm_instructions": limits.arm_instructions,
            "epochs": asked.epochs,
            "batch_size": asked.batch_size,
            "seed": asked.seed,
        }

    # ---- a short training

    def explore(self, trial: optuna.Trial) -> float:
        """Train a trial's network for a short time; return the lowest validation loss."""
        signature = self.start.signature
        spec = self.family.draw(trial, Task(num_classes=len(signature.labels), size_px=signature.size_px))
        cost = cost_of(spec, signature.input_shape)
        trial.set_user_attr("model", to_json(spec))
        trial.set_user_attr("cost", to_json(cost))
        broken = self.options.limits.broken(cost)
        if broken is not None:
            raise UntrainedError(broken)
        if 0 < self.teacher_parameters < cost.parameters:  # frozen TorchScript shows no parameters
            raise UntrainedError(f"{cost.parameters:,} parameters, and its teacher has {self.teacher_parameters:,}")
        key = spec_text(spec)
        claim(trial, key)
        folder = self.output_dir / "trials" / hashlib.sha256(f"{self.task} {key}".encode()).hexdigest()[:16]

        def tell(epoch: EpochRecord) -> None:
            assert epoch.validation_loss is not None
            if epoch.validation_loss < min(trial.user_attrs.get("losses", ()), default=float("inf")):
                trial.set_user_attr("top1_fraction", epoch.validation_top1_fraction)
            trial.set_user_attr("losses", [*trial.user_attrs.get("losses", ()), epoch.validation_loss])
            trial.report(epoch.validation_loss, epoch.epoch)
            if epoch.epoch < self.options.epochs and trial.should_prune():
                raise optuna.TrialPruned

        try:
            with locked(folder):
                history = folder / History.FILE_NAME
                trial.set_user_attr("losses", [])
                for epoch in read_json(History, history).epochs if history.is_file() else ():
                    tell(epoch)  # of a training that was interrupted
                self._distill(spec, folder, key, tell)
        except optuna.TrialPruned:
            remove(folder)
            raise
        remove(folder)
        return float(min(trial.user_attrs["losses"]))

    def _distill(self, spec: ModelSpec, folder: Path, key: str, tell: Callable[[EpochRecord], None]) -> None:
        signature, (images, held_back) = self.start.signature, training_split(self.dataset)
        asked = PipelineOptions(student=spec, epochs=self.options.epochs, supervision=self.options.supervision)
        step = changed(find_pipeline(self.family.pipeline).steps[0], asked, self.sources)
        context = StepContext(
            train=self.sources.batches(images, signature, batch_size=self.options.batch_size, seed=self.options.seed),
            validation=evaluation_batches(held_back, signature),
            class_names=signature.labels,
            input_shape=signature.input_shape,
            seed=self.options.seed,
            fingerprint=key,
            work_dir=folder,
            resume=True,
            compute=self.compute,
            after_epoch=tell,
        )
        apply_knowledge_distillation(self.start.model, context, **step.options)  # type: ignore[arg-type]

    # ---- at full length

    def run_trial(self, trial: FrozenTrial, seed: int) -> Finalist:
        """Run the family's pipeline with a trial's network; the run is kept below ``finalists``."""
        asked, folder = self.options, self.output_dir / "finalists" / f"network-{trial.number:04d}-seed-{seed}"
        planned = plan_pipeline(
            self.family.pipeline,
            baseline=self.baseline,
            dataset=self.dataset,
            options=PipelineOptions(
                student=from_json(ModelSpec, trial.user_attrs["model"], source="the study"),
                epochs=asked.final_epochs,
                batch_size=asked.batch_size,
                seed=seed,
                supervision=asked.supervision,
                allow_factory=asked.allow_factory,
            ),
        )
        planned.run(self.compute, output_dir=folder)
        history = read_json(History, folder / "steps" / "01-distill" / History.FILE_NAME)
        loss = history.epochs[history.best_epoch - 1].validation_loss
        assert loss is not None
        counted, reason = self.count(folder / ARTIFACT_FOLDER) if self.count else (None, "nobody was asked to count")
        return Finalist(
            trial=trial.number,
            seed=seed,
            validation_loss=loss,
            figures=read_json(RunRecord, folder / RunRecord.FILE_NAME).stages[-1],
            arm_instructions=counted,
            arm_reason=reason,
        )

    # ---- the record

    def keep(self, trials: list[FrozenTrial], finalists: tuple[Finalist, ...]) -> SearchRecord:
        """Write ``search.json``."""
        trained = [trial for trial in trials if is_trained(trial)]
        artifact = self.start.artifact
        assert isinstance(artifact, Artifact), "it was loaded from a folder"
        found = SearchRecord(
            schema_version=1,
            family=self.family.name,
            pipeline=self.family.pipeline,
            limits=self.options.limits,
            epochs=self.options.epochs,
            final_epochs=self.options.final_epochs,
            n_untrained=sum(t.state is TrialState.PRUNED and not is_trained(t) for t in trials),
            baseline=artifact.baseline,
            tried=tuple(map(_tried, trained)),
            finalists=tuple(sorted(finalists, key=lambda row: (row.trial, row.seed))),
        )
        write_record(self.output_dir / SearchRecord.FILE_NAME, found)
        return found


def _tried(trial: FrozenTrial) -> TriedNetwork:
    losses, error = trial.user_attrs.get("losses", []), error_of(trial)
    return TriedNetwork(
        trial=trial.number,
        model=from_json(ModelSpec, trial.user_attrs["model"], source="the study"),
        cost=from_json(Cost, trial.user_attrs["cost"], source="the study"),
        outcome="failed" if error else "finished" if trial.state is TrialState.COMPLETE else "halved",
        reason=error,
        epochs=len(losses),
        validation_loss=min(losses, default=None),
        validation_top1_fraction=trial.user_attrs.get("top1_fraction"),
    )


def check_search(options: SearchOptions, dataset: DataSet) -> None:
    """Refuse a study that could not be opened, and limits that no network of the family keeps.

    Raises:
        InputError: saying which.
    """
    options.place.check()
    task = Task(num_classes=len(dataset.class_names), size_px=dataset.size_px)
    cost = cost_of(least_network(find_family(options.family), task), (1, 3, task.size_px, task.size_px))
    # Its instructions are not the fewest: another stride has less to compute.
    broken = replace(options.limits, arm_instructions=None).broken(cost)
    if broken is not None:
        raise InputError(f"The least network of the family {options.family} has {broken}; loosen the limit.")


def estimate_search(options: SearchOptions, baseline: nn.Module, dataset: DataSet) -> Estimate:
    """Estimate a search by its family's first network, as if none were halved; another worker shares it."""
    family = find_family(options.family)
    step = find_pipeline(family.pipeline).steps[0].options
    spec = student_spec(step, num_classes=len(dataset.class_names), size_px=dataset.size_px)
    n_images = images_an_epoch(dataset, options.supervision)
    length = options.final_epochs or int(str(step["epochs"]))
    n_finalists = min(options.finalists, options.trials) * len(options.seeds)
    an_epoch = estimate_training(spec, n_images=n_images, epochs=1, teacher=baseline)
    n_epochs = options.trials * options.epochs + n_finalists * length
    return Estimate(
        what=f"{options.trials} networks for at most {options.epochs} epochs and {n_finalists} for {length}, "
        f"of {n_images:,} images each",
        seconds=an_epoch.seconds * n_epochs,
        disk_bytes=an_epoch.disk_bytes * (1 + n_finalists),
    )
