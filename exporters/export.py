"""Export a model into a bundle: one process a format, so that one that fails, crashes or hangs harms no other."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from exporters.bundle.golden import read_floats
from exporters.bundle.manifest import FileRecord, Golden, Manifest, Variant
from exporters.bundle.open import LABELS, write_zip
from exporters.bundle.reference import ARTIFACT, REFERENCE, WEIGHTS, Reference
from exporters.formats.contract import ExportOptions, Plan
from exporters.formats.table import FORMATS
from exporters.job import GOLDEN, IMAGES, KEPT, MODEL, Job, VariantResult, result_path, started_path
from exporters.toolchain.setup import python_of
from udacisense.base.child import child_pool, run_child, warm_children
from udacisense.base.display import now_utc
from udacisense.base.files import atomic_path, locked, sha256_file, sha256_path, size_bytes
from udacisense.base.progress import progress
from udacisense.base.records import UNFITTED, Outcome, read_json, write_record
from udacisense.base.tensors import save_tensors
from udacisense.errors import InputError, cause, did_you_mean
from udacisense.measure.confidence import not_logits
from udacisense.measure.estimate import Estimate

if TYPE_CHECKING:
    from exporters.source import ExportSource

_WORK = ".work"
# For an estimate: seconds of an interpreter with PyTorch in it, and of one variant; bytes of code, metadata and
# operator tables of one file, and of a parameter. Dynamic int8 packs the linear layers alone: counted as nothing.
_PROCESS_S = 3.0
_VARIANT_S = {"coreml": 4.0, "executorch": 4.0}
_OTHER_VARIANT_S = 1.0
_FILE_BYTES = 60_000
_PARAMETER_BYTES = {"fp16": 2.0, "int8-static": 1.0, "int8-weights": 1.0, "palette6": 0.8, "palette4": 0.5}
# Of static int8 over the calibration images, in calls of the float32 model: observers take twice as long.
_PASSES = {"histogram": 8, "fitted": 20}
MAX_BATCH = 1024
OPSETS = (13, 20)  # 13: per-channel quantisation; 20: the newest that torch 2.7 writes by tracing


def export_bundle(
    source: ExportSource,
    out_dir: Path,
    options: ExportOptions,
    *,
    zip: bool = False,  # noqa: A002 - the option's name on the command line
) -> Manifest:
    """Write a bundle: every variant that the options ask for, the golden pack, the reference and the manifest.

    The folder appears whole or not at all; a bundle that is already there is replaced. A variant that failed or was
    skipped is listed in the manifest with its reason.

    Args:
        source: the model.
        out_dir: the bundle's folder.
        options: which variants, and how.
        zip: also write ``<out_dir>.zip``.

    Raises:
        InputError: an option is out of range, nothing would be exported, ``out_dir`` holds something else, or
            another run writes there.
    """
    _check_options(options)
    refuse_foreign_folder(out_dir)
    if options.batch is None:
        _refuse_single_images(source)
    plans = _plans(options)
    with locked(out_dir), atomic_path(out_dir) as partial:
        partial.mkdir()
        golden = _write_common(source, options, partial)
        variants = _run_formats(source, plans, options, partial)
        shutil.rmtree(partial / _WORK)
        manifest = Manifest(
            schema_version=1,
            created_utc=now_utc(),
            name=source.name,
            artifact_sha256=source.artifact_sha256,
            signature=source.signature,
            golden=golden,
            variants=variants,
            files=file_records(partial),
            confidence=source.confidence,
            notes=_notes(partial, golden, source),
        )
        write_record(partial / Manifest.FILE_NAME, manifest)
    if zip:
        write_zip(out_dir, out_dir.with_name(f"{out_dir.name}.zip"))
    return manifest


def _notes(partial: Path, golden: Golden, source: ExportSource) -> tuple[str, ...]:
    """Say what the golden answers show of the model."""
    shape = (len(golden.images), source.signature.output_shape[1])
    told = not_logits(read_floats(partial / golden.logits_path, shape))
    return () if told is None else (told,)


def _plans(options: ExportOptions) -> dict[str, tuple[Plan, ...]]:
    plans = {name: found for name in options.formats if (found := FORMATS[name].plans(options))}
    if not plans:
        raise InputError(
            f"None of the formats {', '.join(options.formats)} has the precision {', '.join(options.precisions)}."
        )
    return plans


def _check_options(options: ExportOptions) -> None:
    unknown = [name for name in options.formats if name not in FORMATS]
    if unknown or not options.formats:
        raise InputError(f"There is no format {unknown[:1]}; choose of {', '.join(FORMATS)}.")
    if options.batch is not None and not 1 <= options.batch <= MAX_BATCH:
        raise InputError(f"The batch is {options.batch}; allowed is dynamic, or 1 to {MAX_BATCH}.")
    if not OPSETS[0] <= options.opset <= OPSETS[1]:
        raise InputError(f"The opset is {options.opset}; allowed is {OPSETS[0]} to {OPSETS[1]}.")
    if options.calibration < 1:
        raise InputError(f"The number of calibration images is {options.calibration}; allowed is 1 or more.")
    if options.float_blocks < 0:
        raise InputError(f"The number of float32 blocks is {options.float_blocks}; allowed is 0 or more.")
    known = ("fbgemm", "qnnpack", "x86", "onednn")
    wrong = [engine for engine in options.engines if engine not in known]
    if wrong:
        raise InputError(
            f"There is no quantised engine {wrong[0]!r}; choose of {', '.join(known)}.{did_you_mean(wrong[0], known)}"
        )


def _refuse_single_images(source: ExportSource) -> None:
    """Refuse a dynamic batch of a model that answers one image at a time."""
    import torch

    try:
        with torch.no_grad():
            source.model(torch.zeros(2, *source.signature.input_shape[1:]))
    # Foreign code runs here, which may raise whatever it likes.
    except Exception as exc:
        raise InputError(
            f"The model answers one image at a time, and fails for two ({cause(exc)}); export it with --batch 1."
        ) from exc


def refuse_foreign_folder(out_dir: Path) -> None:
    """Refuse to replace what is no bundle.

    Raises:
        InputError: a file or another folder is there.
    """
    if out_dir.is_dir() and any(out_dir.iterdir()) and not (out_dir / Manifest.FILE_NAME).is_file():
        raise InputError(f"{out_dir} is not empty and holds no bundle; give a new folder for the bundle.")
    if out_dir.exists() and not out_dir.is_dir():
        raise InputError(f"{out_dir} is a file; give a folder for the bundle.")


def _write_common(source: ExportSource, options: ExportOptions, partial: Path) -> Golden:
    """Write labels, golden pack and reference, and what the workers share."""
    import torch

    from exporters.bundle.golden import write_golden
    from exporters.source import artifact_record

    (partial / LABELS).write_text("\n".join(source.signature.labels) + "\n", encoding="utf-8")
    golden = write_golden(source, partial)
    (partial / "reference").mkdir()
    save_tensors(partial / WEIGHTS, source.weights())
    calibration = source.calibration
    if calibration is not None:
        calibration = calibration.take(torch.arange(min(options.calibration, len(calibration))))
    reference = Reference(
        schema_version=1,
        model=source.spec,
        signature=source.signature,
        calibration_images=len(calibration) if calibration is not None else None,
    )
    write_record(partial / REFERENCE, reference)
    artifact = artifact_record(source)
    if artifact is not None:
        moved = replace(artifact, path=Path(WEIGHTS).name, sha256=sha256_file(partial / WEIGHTS))
        write_record(partial / ARTIFACT, moved)
    shared = partial / _WORK
    shared.mkdir()
    shutil.copy(partial / WEIGHTS, shared / MODEL)
    shape = (len(golden.images), *source.signature.input_shape[1:])
    inputs = read_floats(partial / golden.inputs_path, shape)
    logits = read_floats(partial / golden.logits_path, (len(golden.images), source.signature.output_shape[1]))
    tensors = {"golden_inputs": torch.from_numpy(inputs), "golden_logits": torch.from_numpy(logits)}
    if calibration is not None:
        tensors["calibration"] = calibration.pixels.contiguous()
    if source.artifact_folder is not None:
        _copy_recipes(source.artifact_folder, shared, has_images=calibration is not None)
    save_tensors(shared / IMAGES, tensors)
    return golden


def _copy_recipes(artifact: Path, shared: Path, *, has_images: bool) -> None:
    """Copy the recipes of static int8 that a model came with; with images those alone that its weights learned by."""
    from exporters.bundle.precision import load_activations
    from udacisense.models.artifact import RECIPES
    from udacisense.stages.int8.rounding import method_of

    for kept in artifact.glob(f"{RECIPES}*.safetensors"):
        if not has_images or method_of(load_activations(kept)) == "qat":
            shutil.copy(kept, shared / kept.name)


@dataclass
class _Run:
    """One export under way, as its threads share it."""

    source: ExportSource
    options: ExportOptions
    partial: Path
    done: Callable[[str], None]  # called with the id of each finished variant


def _run_formats(
    source: ExportSource, plans: dict[str, tuple[Plan, ...]], options: ExportOptions, partial: Path
) -> tuple[Variant, ...]:
    """Run every format in a process of its own, as many at once as there are cores."""
    total = sum(len(found) for found in plans.values())
    with (
        progress("exporting", total) as advance,
        warm_children("exporters.worker"),
        child_pool(os.cpu_count() or 1) as pool,
    ):
        run = _Run(source, options, partial, lambda note: advance(1, note=note))
        if source.calibration is not None:
            _calibrate(run, [p for name in plans if FORMATS[name].unavailable() is None for p in plans[name]], pool)
        made = pool.map(lambda name: _run_format(run, name, plans[name]), plans)
        return tuple(variant for found in made for variant in found)


def _calibrate(run: _Run, plans: list[Plan], pool: Executor) -> None:
    """Make each recipe once, in a process of its own, for all formats; where that fails, their workers say why."""
    from udacisense.models.artifact import RECIPES

    shared = run.partial / _WORK

    def calibrated(engine: str) -> Path:
        folder = shared / f"calibration-{engine}"
        folder.mkdir()
        _write_job(run, folder, calibrates=engine)
        run_child("exporters.worker", folder, timeout_s=run.options.timeout_s)
        return folder

    engines = sorted({plan.recipe_engine for plan in plans if plan.recipe_engine is not None})
    for folder in [*pool.map(calibrated, engines)]:  # all have ended: none takes another's for one that was given
        for made in folder.glob(f"{RECIPES}*.safetensors"):
            made.rename(shared / made.name)


def _run_format(run: _Run, name: str, plans: tuple[Plan, ...]) -> list[Variant]:
    folder = run.partial / _WORK / name
    folder.mkdir()
    reason = FORMATS[name].unavailable()
    if reason is not None:
        for plan in plans:
            write_record(result_path(folder, plan), _unmade(Outcome.SKIPPED, reason))
            run.done(plan.id)
    else:
        _write_job(run, folder, name, plans)
        _run_workers(run, folder, plans, python_of(FORMATS[name].toolchain))
    return [_collect(plan, read_json(VariantResult, result_path(folder, plan)), folder, run.partial) for plan in plans]


def _write_job(
    run: _Run, folder: Path, name: str = "", plans: tuple[Plan, ...] = (), *, calibrates: str | None = None
) -> None:
    job = Job(
        schema_version=1,
        format=name,
        plans=plans,
        options=run.options,
        name=run.source.name,
        model=run.source.spec,
        signature=run.source.signature,
        temperature=(run.source.confidence or UNFITTED).temperature,
        artifact_sha256=run.source.artifact_sha256,
        shared=str((run.partial / _WORK).resolve()),
        calibrates=calibrates,
    )
    write_record(folder / Job.FILE_NAME, job)


def _run_workers(run: _Run, folder: Path, plans: tuple[Plan, ...], python: Path | None) -> None:
    """Start a worker; where it ends early, note the variant that it was at as failed and go on with the rest."""
    left = list(plans)
    while left:
        failure = _run_worker(run, folder, left, python)
        # A worker that ended before its first variant would do so again.
        guilty = [plan for plan in left if started_path(folder, plan).exists()] or list(left)
        for plan in guilty:
            write_record(result_path(folder, plan), _unmade(Outcome.FAILED, failure))
            left.remove(plan)
            run.done(plan.id)


def _run_worker(run: _Run, folder: Path, left: list[Plan], python: Path | None) -> str:
    """Run one worker to its end, removing from ``left`` what it answered; return how it ended, in words."""

    def progressed() -> bool:
        made = [plan for plan in left if result_path(folder, plan).exists()]
        for plan in made:
            left.remove(plan)
            run.done(plan.id)
        return bool(made)

    failure = run_child(
        "exporters.worker", folder, timeout_s=run.options.timeout_s, progressed=progressed, python=python
    )
    progressed()
    return failure or "it left no answer"


def _unmade(outcome: Outcome, reason: str) -> VariantResult:
    return VariantResult(outcome=outcome, reason=reason, product=None, has_golden=False, duration_s=0.0)


def _collect(plan: Plan, result: VariantResult, folder: Path, partial: Path) -> Variant:
    """Move what a worker made into the bundle, and describe it."""
    product = result.product
    path = partial / plan.file_name
    golden_path = f"{GOLDEN}/{plan.id}.f32" if result.has_golden else None
    if product is not None:
        (folder / "files" / plan.file_name).rename(path)
        if golden_path is not None:
            (folder / golden_path).rename(partial / golden_path)
        for kept in (folder / KEPT).iterdir():
            kept.replace(partial / KEPT / kept.name)
    return Variant(
        id=plan.id,
        format=plan.format,
        precision=plan.precision,
        engine=plan.engine,
        path=plan.file_name if product else None,
        sha256=sha256_path(path) if product else None,
        file_bytes=size_bytes(path) if product else None,
        input_kind=product.input_kind if product else "normalized",
        output_kind=product.output_kind if product else "logits",
        batch=product.batch if product else None,
        coverage=product.coverage if product else None,
        precision_note=product.precision_note if product else "",
        golden_logits_path=golden_path,
        options=product.options if product else {},
        toolchain=product.toolchain if product else {},
        deterministic=product.deterministic if product else False,
        outcome=result.outcome,
        reason=result.reason,
        duration_s=result.duration_s,
    )


def file_records(root: Path) -> tuple[FileRecord, ...]:
    """Describe every file below a bundle's folder."""
    return tuple(
        FileRecord(path=p.relative_to(root).as_posix(), sha256=sha256_file(p), file_bytes=p.stat().st_size)
        for p in sorted(root.rglob("*"))
        if p.is_file()
    )


def estimate_export(options: ExportOptions, *, parameters: int, cores: int, image_s: float = 0.0) -> Estimate:
    """Estimate an export: a process a format, as many at once as there are cores.

    Args:
        options: what is written.
        parameters: of the model.
        cores: of this machine.
        image_s: seconds that the model takes for an image; static int8 asks it many, and more where blocks have to
            stay in float32.
    """
    plans = {name: FORMATS[name].plans(options) for name in options.formats if FORMATS[name].unavailable() is None}
    size = sum(
        _PARAMETER_BYTES.get(plan.precision, 4.0) * parameters + _FILE_BYTES for made in plans.values() for plan in made
    )
    busy_s = [
        _PROCESS_S + len(made) * _VARIANT_S.get(name, _OTHER_VARIANT_S) for name, made in plans.items() if made
    ] or [0.0]
    engines = {plan.recipe_engine for made in plans.values() for plan in made} - {None}
    recipe_s = _PASSES[options.int8_method] * options.calibration * image_s  # before the files of all formats
    names = [plan.id for made in plans.values() for plan in made]
    return Estimate(
        what=f"{len(names)} variant{'' if len(names) == 1 else 's'}",
        seconds=max(*busy_s, sum(busy_s) / max(1, cores)) + recipe_s * math.ceil(len(engines) / max(1, cores)),
        disk_bytes=int(size) + 4 * parameters,
        details=(", ".join(names),) if names else (),
    )
