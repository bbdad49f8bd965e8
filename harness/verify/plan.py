"""Which processes a verification needs: pure planning, nothing runs here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from exporters.bundle.manifest import Loadable, Variant, plain
from exporters.bundle.open import Bundle
from exporters.bundle.reference import has_own_source
from harness.cell.run import Job, Setting, answering_job
from harness.inputs import InputSet, PixelArray, normalized
from harness.records import RunSpec
from harness.runners.table import RUNNERS, Runner, verifiers_for
from harness.runners.torch import ALLOW_FACTORY
from harness.verify.beyond.inputs import BEYOND, Beyond
from harness.verify.options import VerifyOptions
from udacisense.base.records import Outcome, Scalar, Signature
from udacisense.base.tensors import supported_engines
from udacisense.data.images import spread_rows
from udacisense.errors import InputError, did_you_mean

X86_ANDROID = "android-x86_64"  # the runner with the kernels of the emulator on a PC

# own: the variant as it ships. engine: the same file under another quantised engine, in the same process.
Role = Literal["own", "engine"]
SETTINGS = "settings"  # name of the setting with other batches and other threads
CellKey = tuple[str, str, str, str | None]  # role or "reference", variant id, runner, engine
Rows = Literal["all", "golden", "some", "few", "alone"]
ALONE = "alone"  # name of the reference's setting that answers image by image, and twice

_BATCH = 50
_OTHER_BATCH = 7  # divides nothing, so that the last batch is another size again
_COUNTS: Mapping[Rows, int] = {"some": 200, "few": 32}


@dataclass(frozen=True)
class Feed:
    """The input files of a run, and what stands at which row of them."""

    folder: Path
    real: slice  # rows of "all"
    golden: slice
    probes: slice
    probe_names: tuple[str, ...]
    rows: Mapping[Rows, NDArray[np.intp]]  # rows of "all" that each file holds
    labels: NDArray[np.int64] | None  # of the real rows
    golden_labels: NDArray[np.int64] | None
    beyond: Beyond | None  # in files of their own

    @classmethod
    def write(
        cls,
        folder: Path,
        signature: Signature,
        inputs: InputSet,
        golden: InputSet,
        probes: Mapping[str, PixelArray],
        *,
        beyond: Beyond | None,
    ) -> Feed:
        """Write every file that a job may ask for."""
        n, extra = len(inputs), 0 if golden is inputs else len(golden)
        blocks = [inputs.pixels, *([golden.pixels] if extra else []), np.stack(list(probes.values()))]
        pixels = np.concatenate(blocks)
        rows: dict[Rows, NDArray[np.intp]] = {"all": np.arange(len(pixels))}
        for name, count in _COUNTS.items():
            rows[name] = spread_rows(n, count)
        golden_rows = slice(n, n + extra) if extra else slice(0, n)
        rows["golden"] = np.arange(golden_rows.start, golden_rows.stop)
        # Photographs and probes, all of them twice: the second answer to an image must be the first.
        rows["alone"] = np.tile(np.unique(np.concatenate([rows["few"], np.arange(golden_rows.start, len(pixels))])), 2)
        for name, chosen in rows.items():
            _write(folder, name, pixels[chosen], signature)
        if beyond is not None:
            _write(folder, BEYOND, beyond.pixels, signature)
        return cls(
            folder=folder,
            real=slice(0, n),
            golden=golden_rows,
            probes=slice(n + extra, len(pixels)),
            probe_names=tuple(probes),
            rows=rows,
            labels=inputs.labels,
            golden_labels=golden.labels,
            beyond=beyond,
        )

    def judged(self, rows: Rows) -> NDArray[np.intp]:
        """Return which rows of "all" a job's decisions are counted on: photographs, no probes."""
        chosen = self.rows[rows]
        return chosen if rows == "golden" else chosen[chosen < self.real.stop]

    def labels_of(self, rows: Rows) -> NDArray[np.int64] | None:
        """Return the classes of :meth:`judged`; None where they are not known."""
        if rows == "golden":
            return self.golden_labels
        return None if self.labels is None else self.labels[self.judged(rows)]

    def path(self, rows: Rows | Literal["beyond"], variant: Loadable) -> Path:
        """Return the file that a variant is fed."""
        return self.folder / f"{rows}-{variant.input_kind}.npy"


def _write(folder: Path, name: str, pixels: PixelArray, signature: Signature) -> None:
    """Write images in both kinds that variants take."""
    np.save(folder / f"{name}-normalized.npy", normalized(pixels, signature))
    np.save(folder / f"{name}-pixels.npy", pixels.astype(np.float32))


@dataclass(frozen=True, kw_only=True)
class CellJob:
    """One cell of a verification."""

    role: Role
    variant: Variant
    spec: RunSpec
    rows: Rows
    job: Job | None  # None: nothing to run, for this reason; an engine's answers come with the own cell's
    outcome: Outcome | None = None
    reason: str | None = None

    @property
    def key(self) -> CellKey:
        """What no two cells of a run share."""
        return self.role, self.variant.id, self.spec.runner, self.spec.engine

    @property
    def name(self) -> str:
        """What to call it where a person reads."""
        engine = f" under {self.spec.engine}" if self.role == "engine" else ""
        return f"{self.spec.variant_id} in {self.spec.runner}{engine}"


@dataclass(frozen=True)
class ReferenceJob:
    """The cell of an eager source, which others are held against."""

    source: Loadable
    job: Job

    @property
    def key(self) -> CellKey:
        """What no two cells of a run share."""
        return "reference", self.source.id, self.job.spec.runner, self.job.spec.engine

    @property
    def name(self) -> str:
        """What to call it where a person reads."""
        return f"{self.source.id} in {self.job.spec.runner}"


@dataclass(frozen=True, kw_only=True)
class Planner:
    """Makes cells of one bundle and one run."""

    bundle: Bundle
    feed: Feed
    options: VerifyOptions
    cores: int

    def reference(self, source: Loadable, *, is_single: bool = False) -> ReferenceJob:
        """Return the cell that computes an eager source; the float32 master answers some images alone, too."""
        size = 1 if is_single else _own_batch(source)
        job = self._job(source, RUNNERS["eager"], engine=source.engine, batch_size=size, rows="all")
        if source == master_of(self.options.allow_factory):
            alone = Setting(
                name=ALONE,
                engine=None,
                threads=self.options.threads,
                batch_size=1,
                inputs_path=str(self.feed.path("alone", source).absolute()),
            )
            beyond = self._beyond(source, engine=None, batch_size=job.spec.batch_size)
            job = dataclasses.replace(job, others=(alone, *beyond))
        return ReferenceJob(source, job)

    def is_for_one_image(self) -> bool:
        """Tell whether every file was written for one image at a time: the model may take no more."""
        return {row.batch for row in self.bundle.manifest.variants if row.outcome is Outcome.PASSED} == {1}

    def variant(self, variant: Variant) -> list[CellJob]:
        """Return every cell of a variant: its own by runner, then other settings and other engines."""
        rows = verifiers_for(variant.format, self.options.runners or None)
        cells: list[CellJob] = []
        for runner in rows:
            engine = variant.engine if runner.quantized_engines else None
            batch_size = variant.batch or runner.own_batch or _own_batch(variant)
            own = self._cell(
                "own",
                variant,
                runner,
                engine=engine,
                batch_size=batch_size,
                rows=self.options.emulated_images if runner.is_emulated else "all",
            )
            reason = _not_run(variant) or runner.unavailable()
            if reason is not None:
                failed = variant.outcome is Outcome.FAILED
                outcome = Outcome.FAILED if failed else Outcome.SKIPPED
                cells.append(dataclasses.replace(own, job=None, outcome=outcome, reason=reason))
                if variant.outcome is not Outcome.PASSED:
                    break  # one line is enough: every runner would say the same
                continue
            engines = self._other_engines(variant, runner)
            tried = (self._setting(cell) for cell in engines if cell.outcome is None)
            settings = [*self._other_settings(variant, runner, engine), *tried]
            settings += () if runner.is_emulated else self._beyond(variant, engine=engine, batch_size=batch_size)
            assert own.job is not None
            cells += [dataclasses.replace(own, job=dataclasses.replace(own.job, others=tuple(settings))), *engines]
        return cells

    def _other_settings(self, variant: Variant, runner: Runner, engine: str | None) -> list[Setting]:
        if not runner.is_timed or (variant.batch is not None and self.cores == 1):
            return []
        return [
            Setting(
                name=SETTINGS,
                engine=engine,
                threads=self.cores if self.options.threads == 1 else 1,
                batch_size=variant.batch or _OTHER_BATCH,
                inputs_path=str(self.feed.path("few", variant).absolute()),
            )
        ]

    def _beyond(self, variant: Loadable, *, engine: str | None, batch_size: int) -> tuple[Setting, ...]:
        """Return the setting that answers what is fed beside the test images, where anything is."""
        if self.feed.beyond is None:
            return ()
        return (
            Setting(
                name=BEYOND,
                engine=engine,
                threads=self.options.threads,
                batch_size=batch_size,
                inputs_path=str(self.feed.path(BEYOND, variant).absolute()),
            ),
        )

    def _other_engines(self, variant: Variant, runner: Runner) -> list[CellJob]:
        if variant.engine is None or not runner.quantized_engines:
            return []
        others: list[str | None] = [engine for engine in supported_engines() if engine != variant.engine]
        outcome = reason = None
        if others and variant.options.get("activations") == "qint8":
            reason = f"its activations are signed: {variant.engine} alone computes them, so no other engine was tried"
            others, outcome = [None], Outcome.SKIPPED
        cells = [
            self._cell("engine", variant, runner, engine=engine, batch_size=_own_batch(variant), rows="some")
            for engine in others
        ]
        return [dataclasses.replace(cell, job=None, outcome=outcome, reason=reason) for cell in cells]

    def _setting(self, cell: CellJob) -> Setting:
        return Setting(
            name=engine_setting(str(cell.spec.engine)),
            engine=cell.spec.engine,
            threads=cell.spec.threads,
            batch_size=cell.spec.batch_size,
            inputs_path=str(self.feed.path(cell.rows, cell.variant).absolute()),
        )

    def _cell(
        self, role: Role, variant: Variant, runner: Runner, *, engine: str | None, batch_size: int, rows: Rows
    ) -> CellJob:
        job = self._job(variant.loadable, runner, engine=engine, batch_size=batch_size, rows=rows, path=variant.path)
        return CellJob(role=role, variant=variant, spec=job.spec, rows=rows, job=job)

    def _job(
        self,
        loadable: Loadable,
        runner: Runner,
        *,
        engine: str | None,
        batch_size: int,
        rows: Rows,
        path: str | None = None,  # None: it opens the bundle
    ) -> Job:
        # Emulated cells are as slow as their images are many; a hang still ends.
        share = len(self.feed.rows[rows]) / len(self.feed.rows["golden"]) if runner.is_emulated else 1.0
        timeout_s = self.options.timeout_s * max(1.0, share)
        return answering_job(
            loadable,
            runner.name,
            self.bundle.root / (path or ""),
            self.feed.path(rows, loadable),
            engine=engine,
            threads=self.options.threads,
            batch_size=batch_size,
            timeout_s=timeout_s,
        )


def engine_setting(engine: str) -> str:
    """Return the name of the setting under another engine."""
    return f"engine-{engine}"


def _own_batch(variant: Loadable) -> int:
    """Dynamic int8 measures its activations over the whole batch: a phone's batch of one is what counts."""
    if variant.precision == "int8-dynamic":
        return variant.batch or 1
    return variant.batch or _BATCH


def _not_run(variant: Variant) -> str | None:
    if variant.outcome is Outcome.PASSED:
        return None
    return f"not exported: {variant.reason or 'no reason was given'}"


def source_of(variant: Variant, allow_factory: str | None) -> Loadable:
    """Return the eager source of a variant; one id, one source.

    Where PyTorch quantised nothing it is the float32 model, with what ships around it.
    """
    master = master_of(allow_factory)
    kinds = f"{variant.input_kind} to {variant.output_kind}"
    if not has_own_source(variant):
        if kinds == "normalized to logits":
            return master
        return dataclasses.replace(
            master, id=f"eager fp32, {kinds}", input_kind=variant.input_kind, output_kind=variant.output_kind
        )
    is_static = variant.precision == "int8-static"
    return dataclasses.replace(
        variant.loadable,
        # Calibrated activations are kept by the id of their variant.
        id=variant.id if is_static else f"eager {variant.precision} {variant.engine}, {kinds}",
        format=variant.format if is_static else "torchscript",
        batch=_own_batch(variant),
        options={**variant.options, **master.options} if is_static else master.options,
    )


def master_of(allow_factory: str | None) -> Loadable:
    """Return the float32 master: normalised images to logits; the same for all variants."""
    options: dict[str, Scalar] = {} if allow_factory is None else {ALLOW_FACTORY: allow_factory}
    return dataclasses.replace(plain("eager fp32", "torchscript"), options=options)


def check_runners(names: Sequence[str] | None) -> None:
    """Refuse a name that is no row of RUNNERS, or that opens no file.

    Raises:
        InputError: naming it.
    """
    allowed = [row.name for row in RUNNERS.values() if row.formats]
    wrong = [name for name in names or () if name not in allowed]
    if wrong:
        hint = did_you_mean(wrong[0], allowed)
        raise InputError(f"There is no runner '{wrong[0]}'; choose from {', '.join(allowed)}.{hint}")


def check_variants(variants: Sequence[Variant], ids: Sequence[str] | None) -> tuple[Variant, ...]:
    """Return the variants of these ids, in the manifest's order; None: all.

    Raises:
        InputError: an id is none of the bundle's, or there is no variant at all.
    """
    known = [variant.id for variant in variants]
    wrong = [name for name in ids or () if name not in known]
    if wrong:
        hint = did_you_mean(wrong[0], known)
        raise InputError(f"The bundle has no variant '{wrong[0]}'; it has {', '.join(known)}.{hint}")
    chosen = tuple(variant for variant in variants if ids is None or variant.id in ids)
    if not chosen:
        raise InputError("The bundle has no variants: nothing could be verified.")
    return chosen
