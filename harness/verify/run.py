"""Verify a bundle: every file against the model it came from, each in a process of its own.

For each variant and runner: numbers against the eager source of the same precision, decisions against the float32
master, on real images or the golden pack, and on probes; then once more in other batches on other threads, and for
int8 under the other quantised engines. References are computed in processes of their own too.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import replace
from functools import partial
from pathlib import Path

from exporters.bundle.manifest import Loadable, Manifest, Variant
from exporters.bundle.open import LABELS, Bundle, bundle_sha256, check_files
from exporters.bundle.reference import REFERENCE, Reference, load_reference
from exporters.formats.contract import Plan
from harness.cell.run import Cell, run_cell
from harness.host import read_host
from harness.inputs import InputSet, golden_pack, probe_images, real_inputs
from harness.records import Measurement, MeasurementSet
from harness.runners.table import RUNNERS, verifiers_for
from harness.verify.answers import Answers, reference_outputs
from harness.verify.beyond.cascade import judge_way
from harness.verify.beyond.inputs import make_beyond
from harness.verify.inside.run import look_inside
from harness.verify.judge import check_golden, judge_cell
from harness.verify.options import VerifyOptions
from harness.verify.plan import (
    CellJob,
    CellKey,
    Feed,
    Planner,
    ReferenceJob,
    check_runners,
    check_variants,
    master_of,
    source_of,
)
from udacisense.base.child import allowed_cores, child_pool, warm_children
from udacisense.base.display import now_utc
from udacisense.base.records import Outcome, read_json
from udacisense.errors import InputError, LoadError
from udacisense.measure.estimate import Estimate, seconds_an_image

_WORKERS = ("harness.cell.worker", "harness.verify.inside.worker")
# What the cells of a format load beside PyTorch.
_LIBRARIES = {"onnx": ("onnx", "onnxruntime"), "ort": ("onnx", "onnxruntime"), "coreml": ("coremltools",)}
_PROCESS_S = 3.0  # of an interpreter with PyTorch and a runtime in it, for an estimate
_SLOWER = {"mil": 30.0, "android-arm64": 30.0}  # against the eager model, an image
OnProgress = Callable[[int, str], None]  # told as each cell ends: cells in all, which one


def verify_bundle(bundle: Bundle, options: VerifyOptions, *, on_progress: OnProgress | None = None) -> MeasurementSet:
    """Verify a bundle.

    Args:
        bundle: an open one.
        options: what is fed, to which runners, and the limits.
        on_progress: told as each cell ends.

    Raises:
        InputError: an option or the data set does not fit the bundle, or nothing is left to verify.
        LoadError: the bundle is damaged or contradicts itself.
        InferenceError: the reference itself failed, is not finite, or answers otherwise each time or in a batch.
    """
    _refuse_damage(bundle)
    check_runners(options.runners)
    chosen = {variant.id for variant in check_variants(bundle.manifest.variants, options.variants or None)}
    cores = allowed_cores()
    if not 1 <= options.threads <= 4 * cores:
        raise InputError(
            f"Threads must be from 1 to {4 * cores} on this host of {cores} cores; given: {options.threads}."
        )
    members, bundles = bundle.manifest.members or (None,), bundle.members()
    told = None if on_progress is None else partial(_one_of, on_progress, len(bundles))
    answers, measured = list[Answers](), list[Measurement]()
    packs = [golden_pack(own.root, own.manifest) for own in bundles]
    with tempfile.TemporaryDirectory(prefix="udacisense-verify-") as name:
        # The members of a cascade see the same photos.
        inputs, feed = _fed(Path(name), bundle, packs[0].inputs, options)
        for member, own, pack in zip(members, bundles, packs, strict=True):
            ids = {v.id: v.id if member is None else member.variants[v.id] for v in own.manifest.variants}
            wanted = [v for v in own.manifest.variants if ids[v.id] in chosen]
            if wanted:
                answers.append(_ask(Planner(bundle=own, feed=feed, options=options, cores=cores), wanted, told))
                check_golden(answers[-1], pack.logits)
                measured += _judge(answers[-1], bundle, ids, options)
    if bundle.manifest.members and len(answers) == len(bundles):
        for way in bundle.manifest.ways():
            measured += judge_way(bundle.manifest.members, answers, way, options.limit(way), judged=measured)
    return MeasurementSet(
        schema_version=1,
        kind="verify",
        created_utc=now_utc(),
        bundle=str(bundle.given),
        bundle_sha256=bundle_sha256(bundle.root),
        host=read_host(),
        inputs=inputs.description,
        seed=0,
        measurements=tuple(measured),
    )


def _one_of(on_progress: OnProgress, bundles: int, total: int, name: str) -> None:
    on_progress(total * bundles, name)


def _fed(folder: Path, bundle: Bundle, golden: InputSet, options: VerifyOptions) -> tuple[InputSet, Feed]:
    """Return the real images, and every file that is fed, written into a folder."""
    signature = bundle.manifest.signature
    inputs = golden if options.dataset is None else real_inputs(options.dataset, signature)
    beyond = make_beyond(inputs, unknown=options.unknown, is_shifted=options.is_shifted)
    return inputs, Feed.write(folder, signature, inputs, golden, probe_images(signature.size_px), beyond=beyond)


def _judge(answers: Answers, bundle: Bundle, ids: Mapping[str, str], options: VerifyOptions) -> Iterator[Measurement]:
    """Yield what became of each cell, by the id that its variant has in the bundle that was given."""
    for job in answers.jobs:
        joined = bundle.variant(ids[job.variant.id])
        made = judge_cell(answers, job, options.limit(joined))
        yield replace(made, spec=replace(made.spec, variant_id=joined.id))


def _ask(planner: Planner, chosen: Sequence[Variant], on_progress: OnProgress | None) -> Answers:
    """Run the references, every cell of these variants and, beside them, what looks into their files."""
    options = planner.options
    references = {source.id: planner.reference(source) for source in _sources(chosen, options.allow_factory)}
    jobs = [job for variant in chosen for job in planner.variant(variant)]
    if not jobs:
        raise InputError("No runner that was asked for opens any of the variants: nothing would be verified.")
    processes = options.processes or max(1, planner.cores // options.threads)
    libraries = {name for variant in chosen for name in _LIBRARIES.get(variant.format, ())}
    with warm_children(*_WORKERS, *sorted(libraries)), child_pool(1) as beside:
        found = beside.submit(look_inside, planner.bundle, chosen, options)
        cells = _run_all([*references.values(), *jobs], processes, on_progress)
        if planner.is_for_one_image():
            failed = [name for name, job in references.items() if cells[job.key].outputs is None]
            references |= {name: planner.reference(references[name].source, is_single=True) for name in failed}
            cells |= _run_all([references[name] for name in failed], processes, None)
    return Answers(
        bundle=planner.bundle,
        feed=planner.feed,
        jobs=jobs,
        references={source: reference_outputs(job, cells[job.key], planner.feed) for source, job in references.items()},
        cells=cells,
        allow_factory=options.allow_factory,
        inside=found.result(),
    )


def _refuse_damage(bundle: Bundle) -> None:
    problems = check_files(bundle)
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise LoadError(f"The bundle {bundle.root} is damaged: {'; '.join(problems[:3])}{more}. Copy it again.")
    for own in bundle.members():
        _refuse_other_labels(own)


def _refuse_other_labels(bundle: Bundle) -> None:
    reference = read_json(Reference, bundle.root / REFERENCE)
    if reference.signature != bundle.manifest.signature:
        raise LoadError(
            f"The signature in {bundle.root / Manifest.FILE_NAME} is not its reference model's (labels, mean, std, "
            "size or resize): one of them was changed. Export the bundle again."
        )
    labels = (bundle.root / LABELS).read_text(encoding="utf-8", errors="replace").splitlines()
    if tuple(labels) != bundle.manifest.signature.labels:
        raise LoadError(
            f"{bundle.root / LABELS} does not hold the signature's labels in order. Export the bundle again."
        )


def exit_code(measured: MeasurementSet) -> int:
    """Return 0 where something passed and nothing failed, else the worst of 1, 3 (would not load), 4 (did not run)."""
    failed = [m for m in measured.measurements if m.outcome is Outcome.FAILED]
    if failed:
        return max(int(m.actual.get("exit_code") or 1) for m in failed)
    return 0 if any(m.outcome is Outcome.PASSED for m in measured.measurements) else 1


def _sources(variants: Sequence[Variant], allow_factory: str | None) -> list[Loadable]:
    """Return the float32 master and every eager source that a variant needs, each once."""
    exported = [v for v in variants if v.outcome is Outcome.PASSED]
    sources = [master_of(allow_factory), *(source_of(v, allow_factory) for v in exported)]
    return list({source.id: source for source in sources}.values())


def _run_all(
    jobs: Sequence[CellJob | ReferenceJob], processes: int, on_progress: OnProgress | None
) -> dict[CellKey, Cell]:
    """Run every job that is to be run, so many processes at a time; an interrupt ends them all."""
    cells: dict[CellKey, Cell] = {}
    with child_pool(processes) as pool:
        futures = {pool.submit(run_cell, job.job): job for job in jobs if job.job is not None}
        for future in as_completed(futures):
            job = futures[future]
            cells[job.key] = future.result()
            if on_progress is not None:
                on_progress(len(futures), job.name)
    return cells


def estimate_verification(bundle: Bundle, options: VerifyOptions) -> Estimate:
    """Estimate a verification: a process for each variant and runner, each of which answers every image twice."""
    check_runners(options.runners)
    chosen = check_variants(bundle.manifest.variants, options.variants or None)
    n_golden = len(bundle.manifest.golden.images)
    n_images = n_golden if options.dataset is None else len(options.dataset.test)
    models = [load_reference(own, allow_factory=options.allow_factory)[0] for own in bundle.members()]
    shape = (1, *bundle.manifest.signature.input_shape[1:])
    return estimate_cells(
        [variant for variant in chosen if variant.outcome is Outcome.PASSED],
        image_s=sum(seconds_an_image(model, shape) for model in models) / len(models),
        n_images=n_images + options.images_beyond(n_images) // 2,  # which are answered once
        emulated_images=n_images if options.emulated_images == "all" else n_golden,
        runners=options.runners or None,
        cores=os.cpu_count() or 1,
    )


def estimate_cells(
    variants: Sequence[Variant | Plan],
    *,
    image_s: float,
    n_images: int,
    emulated_images: int,
    runners: Sequence[str] | None = None,
    cores: int,
) -> Estimate:
    """Estimate the cells of variants that may not be there yet: each answers every image twice."""
    cells = [
        (variant.id, row.name)
        for variant in variants
        for row in verifiers_for(variant.format, runners)
        if row.unavailable() is None
    ]
    by_runner: dict[str, list[str]] = {}
    for variant_id, runner in cells:
        by_runner.setdefault(runner, []).append(variant_id)
    counts = [emulated_images if RUNNERS[runner].is_emulated else n_images for _, runner in cells]
    seconds = [
        _PROCESS_S + 2 * count * image_s * _SLOWER.get(runner, 1.0)
        for (_, runner), count in zip(cells, counts, strict=True)
    ]
    return Estimate(
        what=f"{len(cells)} cell{'' if len(cells) == 1 else 's'} on {n_images:,} images",
        seconds=sum(seconds) / max(1, cores),
        disk_bytes=3_000 * len(cells) + 100 * n_images,
        details=tuple(f"{runner}: {', '.join(names)}" for runner, names in by_runner.items()),
    )
