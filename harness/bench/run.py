"""Benchmark bundles: plan a sweep, run it a process at a time, keep every raw sample.

``plan_sweep`` opens the bundles and says what would run and for how long; ``run_sweep`` runs it and writes
``measurements.json`` as it goes, so that Ctrl-C or a kill loses one process at most and ``resume`` goes on.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from exporters.bundle.open import Bundle, bundle_sha256, open_bundle
from exporters.bundle.reference import ARTIFACT, load_reference
from exporters.cascade import RECORD
from harness.bench.advice import recommendations
from harness.bench.cells import Here, Source, SweepOptions, make_plan
from harness.bench.compare_runs import plan_differences
from harness.bench.instructions import count_variants, countable
from harness.bench.jobs import Jobs
from harness.bench.ranking import rank
from harness.bench.roofline import count_work, measure_ceilings
from harness.bench.rounds import Plan, Step, choose, chosen_steps, step_seconds, tune_steps
from harness.cell.run import run_cell
from harness.host import read_host, read_state, usable_cores
from harness.records import (
    BenchedBundle,
    BenchedCascade,
    BenchedMember,
    BenchRun,
    BenchSet,
    Ceiling,
    Host,
    HostState,
    MeasurementSet,
    Recommendation,
    Timing,
    VariantInstructions,
)
from harness.runners.table import RUNNERS
from harness.runtime.count import folder_that_counts
from udacisense.base.display import now_utc
from udacisense.base.files import locked
from udacisense.base.progress import Advance
from udacisense.base.records import Artifact, Outcome, from_json, read_json, write_record
from udacisense.base.tensors import supported_engines
from udacisense.errors import InputError
from udacisense.measure.cascade import Cascade
from udacisense.measure.counts import count_parameters
from udacisense.stages.contract import Kind
from udacisense.stages.table import STAGES

# The file is written after every process, but not where that would take over a twentieth of the time.
_WRITING_SHARE = 20
_WARM_C = 10.0  # a cell waits while the host is so much hotter than when the sweep began
_COOL_DOWN_S = 60.0
_BUSY_LOAD = 0.5  # load average, beyond this sweep's own, above which a note says so


def plan_sweep(bundles: Sequence[Path], options: SweepOptions | None = None) -> Plan:
    """Open the bundles and lay out the sweep; its ``expected_s`` says how long it should take.

    Args:
        bundles: folders that hold a ``manifest.json``. Ratios between bundles need them in one sweep.
        options: what is asked for; None: the default budget, on everything.

    Raises:
        InputError: an option is not what is allowed, a bundle is none, or nothing in it can be measured here.
        LoadError: a bundle's reference model would not load.
    """
    options = options or SweepOptions()
    host = read_host()
    here = Here(
        cores=usable_cores(host),
        engines=supported_engines(),
        unavailable={name: runner.unavailable() for name, runner in RUNNERS.items()},
    )
    opened = _opened(bundles)
    sources, cascades = describe_bundles(opened, allow_factory=options.allow_factory)
    is_alone = bool(opened and opened[0].manifest.members) and "baseline" not in {b.manifest.name for b in opened}
    if options.reference is None and is_alone:
        # What a cascade is held against is the model that it spares: its last member.
        options = dataclasses.replace(options, reference=cascades[0].members[-1].bundle)
    plan = make_plan(sources, options, here)
    return dataclasses.replace(plan, cascades=tuple(cascades), notes=tuple(_notes(host)))


def run_sweep(
    plan: Plan,
    *,
    out: Path,
    resume: bool = False,
    arm_instructions: bool = False,
    verifications: Sequence[MeasurementSet] | None = None,
    on_progress: Advance | None = None,
) -> BenchSet:
    """Run a plan and return its measurements; ``out`` (a JSON file) is written as it goes.

    Args:
        plan: of :func:`plan_sweep`.
        out: the file to write. On Ctrl-C it keeps what was measured.
        resume: go on with the sweep that ``out`` holds.
        arm_instructions: also count the ARM instructions of each variant that can be counted, after the times.
        verifications: records of ``verify``, which the recommendation heeds; None: it is left out of account.
        on_progress: called after each process with the seconds it was expected to take.

    Raises:
        InputError: another run writes there; ARM instructions were asked for and cannot be counted here; with
            ``resume``, the file is of another plan, host or other bundles; without, it holds runs of this very plan,
            which was interrupted.
    """
    if arm_instructions:
        folder_that_counts()
    sweep = _Sweep(plan, out, verifications, on_progress)
    with locked(out):
        if resume:
            sweep.take_over(read_json(BenchSet, out))
        else:
            sweep.refuse_unfinished()
        try:
            sweep.run()
            if arm_instructions:
                sweep.count()
        finally:
            sweep.write()
    return sweep.result()


class _Sweep:
    """A sweep on its way."""

    def __init__(
        self, plan: Plan, out: Path, verifications: Sequence[MeasurementSet] | None, on_progress: Advance | None
    ) -> None:
        self.plan = plan
        self.out = out
        self.host = read_host()
        self.created_utc = now_utc()
        self.runs: list[BenchRun] = []
        self.ceilings: tuple[Ceiling, ...] = ()
        self.instructions: list[VariantInstructions] = []
        self.recommended: tuple[Recommendation, ...] = ()
        self.complete = False
        self._verifications = verifications
        self._on_progress = on_progress
        self._cool = read_state()
        self._written = 0.0  # when, on the monotonic clock
        self._write_s = 0.0

    def take_over(self, kept: BenchSet) -> None:
        """Go on from what an earlier run left.

        Raises:
            InputError: it measured something else, or elsewhere.
        """
        if differences := plan_differences(self.plan, self.host, kept):
            raise InputError(
                f"{self.out} cannot be resumed, because this run differs from it in {'; '.join(differences)}. "
                "Give the same options on the same host, or another file to start afresh."
            )
        self.created_utc, self.runs, self.ceilings = kept.created_utc, list(kept.runs), kept.ceilings
        self.instructions = list(kept.instructions)

    def refuse_unfinished(self) -> None:
        """Keep what an interrupted run of this plan measured from being overwritten unasked.

        Raises:
            InputError: the file holds such runs.
        """
        try:
            kept = read_json(BenchSet, self.out)
        except InputError:
            return  # there is none, or it is no sweep
        if kept.runs and not kept.complete and not plan_differences(self.plan, self.host, kept):
            raise InputError(
                f"{self.out} holds {len(kept.runs)} run{'s' if len(kept.runs) != 1 else ''} of this very sweep, "
                "which was interrupted: go on with --resume, or start anew by deleting that file or giving another -o."
            )

    def run(self) -> None:
        """Measure the ceilings, then every step that is not done yet."""
        if not self.ceilings:
            self.ceilings = measure_ceilings(sorted({cell.threads for cell in self.plan.runnable}))
        with tempfile.TemporaryDirectory(prefix="udacisense-bench-") as folder:
            jobs = Jobs(self.plan, Path(folder))
            tuning = tune_steps(self.plan)
            tuning_s = sum(step_seconds(self.plan, step) for step in tuning)
            self._run_steps(tuning, jobs, expected_s=tuning_s)
            chosen = chosen_steps(self.plan, choose(self.plan, self.runs))
            self._run_steps(chosen, jobs, expected_s=self.plan.expected_s - tuning_s)
        self.complete = True
        made = self.result()
        self.recommended = recommendations(made, rank(made), self._verifications)

    def count(self) -> None:
        """Count the instructions of every variant that is not counted yet."""
        done = {(counted.bundle, counted.variant_id) for counted in self.instructions}
        planned = {(cell.bundle, cell.variant_id) for cell in self.plan.cells}
        wanted = [key for key in countable(self.plan.bundles) if key in planned and key not in done]
        for counted in count_variants(self.plan.bundles, wanted):
            self.instructions.append(counted)
            self.write()

    def _run_steps(self, steps: Sequence[Step], jobs: Jobs, *, expected_s: float) -> None:
        """Run what is not done yet, and move the progress on by ``expected_s`` in all."""
        total_s = sum(step_seconds(self.plan, step) for step in steps)
        done = {(run.cell_id, run.round, run.phase) for run in self.runs}
        for step in steps:
            if (step.cell.id, step.round, step.phase) not in done:
                self._cool_down()
                self.runs.append(_run_step(step, jobs))
                if time.monotonic() - self._written > _WRITING_SHARE * self._write_s:
                    self.write()
            if self._on_progress is not None:
                self._on_progress(step_seconds(self.plan, step) * expected_s / total_s, note=step.cell.id)

    def _cool_down(self) -> None:
        """Wait, a minute at most, while the host is much hotter than when the sweep began."""
        start_c, end = self._cool.temperature_c, time.monotonic() + _COOL_DOWN_S
        while start_c is not None and time.monotonic() < end:
            now_c = read_state().temperature_c
            if now_c is None or now_c <= start_c + _WARM_C:
                return
            time.sleep(1)

    def write(self) -> None:
        """Write what there is."""
        start = time.monotonic()
        write_record(self.out, self.result())
        self._written = time.monotonic()
        self._write_s = self._written - start

    def result(self) -> BenchSet:
        """Return what there is."""
        plan = self.plan
        return BenchSet(
            schema_version=2,
            kind="bench",
            created_utc=self.created_utc,
            host=self.host,
            seed=plan.seed,
            budget=plan.budget,
            bundles=plan.bundles,
            reference=plan.reference,
            ceilings=self.ceilings,
            cells=plan.cells,
            runs=tuple(self.runs),
            recommended=self.recommended,
            notes=plan.notes,
            complete=self.complete,
            instructions=tuple(self.instructions),
            cascades=plan.cascades,
        )


def _opened(folders: Sequence[Path]) -> list[Bundle]:
    opened = [open_bundle(folder) for folder in folders]
    for folder in folders:
        if [other.resolve() for other in folders].count(folder.resolve()) > 1:
            raise InputError(f"The bundle {folder} was given twice; a sweep measures each once.")
    return opened


def describe_bundles(
    opened: Sequence[Bundle], *, allow_factory: str | None
) -> tuple[list[Source], list[BenchedCascade]]:
    """Describe every bundle; of a cascade, each member's own, by the name ``<cascade>.<member>``.

    Raises:
        InputError: two bundles have one name, or a factory was not allowed.
        LoadError: a reference model would not load.
    """
    names = [bundle.manifest.name for bundle in opened]
    sources: list[Source] = []
    cascades: list[BenchedCascade] = []
    for bundle in opened:
        name = bundle.manifest.name
        if names.count(name) > 1:
            name = f"{name}({bundle.given.resolve().name})"
        members = []
        for member, own in zip(bundle.manifest.members or (None,), bundle.members(), strict=True):
            label = name if member is None else f"{name}.{member.name}"
            if label in {source.bundle.name for source in sources}:
                raise InputError(f"Two bundles are both called {label}; rename one of their folders.")
            benched = _describe(label, own, allow_factory=allow_factory)
            sources.append(Source(bundle=benched, manifest=own.manifest))
            members += [] if member is None else [BenchedMember(bundle=label, variants=member.variants)]
        if members:
            cascades.append(_cascade(name, bundle, members))
    return sources, cascades


def _cascade(name: str, bundle: Bundle, members: Sequence[BenchedMember]) -> BenchedCascade:
    found = read_json(Cascade, bundle.path(RECORD))
    answered, last = found.test.answered, bundle.members()[-1].root / ARTIFACT
    baseline = read_json(Artifact, last).baseline if last.is_file() else None
    return BenchedCascade(
        name=name,
        sha256=bundle_sha256(bundle.root),
        members=tuple(members),
        reached_fractions=tuple(min(1.0, sum(answered[number:])) for number in range(len(members))),
        top1_fraction=found.test.top1_fraction.value,
        n_images=found.n_test,
        baseline_top1_fraction=None if baseline is None else baseline.top1_fraction,
    )


def _describe(name: str, bundle: Bundle, *, allow_factory: str | None) -> BenchedBundle:
    """Return what a sweep's record says of a bundle; its model is rebuilt to count its work."""
    model, _ = load_reference(bundle, allow_factory=allow_factory)
    work = count_work(model, (1, *bundle.manifest.signature.input_shape[1:]))
    top1 = None
    if (bundle.root / ARTIFACT).is_file():
        top1 = _master_top1(read_json(Artifact, bundle.root / ARTIFACT))
    return BenchedBundle(
        name=name,
        path=str(bundle.root.resolve()),
        sha256=bundle_sha256(bundle.root),
        parameters=count_parameters(model),
        flops=work.flops,
        moved_bytes=work.moved_bytes,
        top1_fraction=top1,
    )


def _master_top1(artifact: Artifact) -> float | None:
    """Return the float32 weights' accuracy: of the last stage before int8 or a graph.

    None after a user's own stage; and after quantisation-aware training, of which int8 alone was measured.
    """
    top1: float | None = artifact.baseline.top1_fraction
    for stage in artifact.stages:
        row = STAGES.get(stage.stage)
        if row is None or row.name == "qat":
            return None
        if row.produces is not Kind.EAGER_FLOAT:
            break
        top1 = stage.top1_fraction
    return top1


def _run_step(step: Step, jobs: Jobs) -> BenchRun:
    before, start = read_state(), time.monotonic()
    ran = run_cell(jobs.make(step.cell, task="memory" if step.phase == "memory" else "time"))
    duration_s = time.monotonic() - start
    result, timing, warnings = ran.result, None, []
    if result.outcome is Outcome.PASSED and "samples_ms" in result.values:
        timing = from_json(Timing, json.dumps(result.values), source="the worker's times")
    wrong = jobs.wrong_answers(step.cell, ran.outputs)
    if wrong and ran.outputs is not None:
        warnings.append(f"{wrong} of {len(ran.outputs)} answers differ from the golden pack's: verify the bundle")
    got, asked = result.actual.get("threads", step.cell.threads), step.cell.threads
    if got != asked:
        warnings.append(f"{asked} threads were asked for, and the runtime uses {got}")
    return BenchRun(
        cell_id=step.cell.id,
        round=step.round,
        phase=step.phase,
        duration_s=duration_s,
        before=before,
        after=read_state(),
        actual=result.actual,
        timing=timing,
        wrong_answers=wrong,
        warnings=tuple(warnings),
        outcome=result.outcome,
        reason=result.reason,
        peak_rss_bytes=result.values.get("peak_rss_bytes"),
    )


def _notes(host: Host) -> list[str]:
    notes = []
    if host.load_average is not None and host.load_average > _BUSY_LOAD:
        notes.append(f"the host's load average was {host.load_average:.2f} when the sweep was planned: other work ran")
    for runner in (row for row in RUNNERS.values() if row.is_gpu):
        reason = runner.unavailable()
        here = f"{host.gpu} takes float32 TorchScript; int8 is skipped: PyTorch's kernels for it run on the CPU alone"
        notes.append(f"{runner.name}: {here if reason is None else f'skipped: {reason}'}")
    state: HostState = read_state()
    missing = [n for n, v in (("frequency", state.frequency_mhz), ("temperature", state.temperature_c)) if v is None]
    if missing:
        notes.append(f"this host does not show its {' and '.join(missing)}")
    return notes
