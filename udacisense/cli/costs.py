"""What a command will take, estimated before it is spent: seconds on this machine, and bytes on its disk.

Training is timed on a few images; the rest goes by the number of processes and files. Read the figures as "about".
"""

from __future__ import annotations

import shutil
import textwrap
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from udacisense.base.display import megabytes
from udacisense.cli.output import duration, say_cost

if TYPE_CHECKING:
    from torch import Tensor, nn

    from exporters.bundle.manifest import Precision, Variant
    from exporters.bundle.open import Bundle
    from exporters.formats.contract import ExportOptions, Plan
    from harness.verify.options import VerifyOptions
    from udacisense.base.records import ModelSpec
    from udacisense.data.images import DataSet
    from udacisense.pipeline.recipes import PipelineRecipe
    from udacisense.pipeline.search.run import SearchOptions
    from udacisense.pipeline.techniques import Technique

_PROBE_IMAGES = 8
_PROCESS_S = 3.0  # an interpreter with torch and a runtime in it
_VARIANT_S = {
    "coreml": 4.0,
    "executorch": 20.0,
    "tflite": 10.0,
}  # converting one variant; the others take about a second
_OTHER_VARIANT_S = 1.0
_FILE_BYTES = 60_000  # code, metadata and operator tables of one exported file
# Bytes a parameter. Dynamic int8 packs the linear layers alone: counted as if that were nothing.
_PARAMETER_BYTES = {"fp16": 2.0, "int8-static": 1.0, "int8-weights": 1.0, "palette6": 0.8, "palette4": 0.5}
_SLOWER = {"mil": 30.0, "android-arm64": 30.0, "litert-android-arm64": 30.0}  # against the eager model, per image

# What one technique takes beside its training: passes over the test images, latencies by turns, plots. Static int8 also
# tries its blocks one by one, in so many answers; training with rounding in the graph takes so many times a plain step.
_PASSES = 4
_TECHNIQUE_S = 10.0
_SEARCH_ANSWERS = 15_000
_ROUNDED = 8.0
# Of a quick sweep: five processes a variant; of the demo's reports: two documents, one with its plots.
_TIMED_S = 12.0
_TIMED_BYTES = 20_000
_REPORTS_S = 20.0
_REPORTS_BYTES = 1_000_000
# The demo's small baseline and the two pipelines of it, on drawn shapes.
_SHAPES_S = 60.0
_SHAPES_BYTES = 60_000_000


@dataclass(frozen=True, kw_only=True)
class Cost:
    """An estimate."""

    what: str  # what will be done, in a few words
    seconds: float
    disk_bytes: int
    details: tuple[str, ...] = ()  # what exactly, where that is too long for the sentence; a line each


def announce(cost: Cost, folder: Path) -> None:
    """Print a cost, and how much room the disk of ``folder`` has."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    free_bytes = shutil.disk_usage(place).free
    short = " (that is more than is free there)" if free_bytes < cost.disk_bytes else ""
    say_cost(
        f"{cost.what}: about {duration(cost.seconds)} and {megabytes(cost.disk_bytes)} of the "
        f"{free_bytes / 1e9:.1f} GB that are free for {folder}{short}."
    )
    width = max(40, shutil.get_terminal_size().columns)
    for line in cost.details:
        say_cost(textwrap.fill(line, width, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False))


def total(what: str, costs: Iterable[Cost]) -> Cost:
    """Return the sum of costs that are spent one after the other."""
    made = list(costs)
    return Cost(what=what, seconds=sum(c.seconds for c in made), disk_bytes=sum(c.disk_bytes for c in made))


def training_cost(
    spec: ModelSpec, *, n_images: int, epochs: int, channels_last: bool = False, teacher: nn.Module | None = None
) -> Cost:
    """Estimate a training run on the CPU: one step on a few images is timed, nothing is kept of it."""
    import torch

    from udacisense.measure.counts import count_parameters
    from udacisense.models.build import build_model

    with torch.random.fork_rng([]):
        model = build_model(spec).train()
        images = torch.randn(_PROBE_IMAGES, 3, *[int(spec.options.get("size_px") or 32)] * 2)
        if channels_last:
            model, images = model.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        seconds = min(_step_s(model, images) for _ in range(3)) / _PROBE_IMAGES
    if teacher is not None:
        seconds += _answer_s(teacher, tuple(images.shape))
    # The checkpoint holds the weights, the best ones and two moments of each, twice while it is replaced.
    disk_bytes = 9 * 4 * count_parameters(model)
    return Cost(
        what=f"{epochs} epoch{'' if epochs == 1 else 's'} of {n_images:,} images",
        seconds=seconds * n_images * epochs,
        disk_bytes=disk_bytes,
    )


def _answer_s(model: nn.Module, input_shape: tuple[int, ...]) -> float:
    """Time a call; return the seconds an image."""
    from udacisense.measure.metrics import median_latency_ms

    return median_latency_ms(model, input_shape) / 1e3 / input_shape[0]


def _step_s(model: nn.Module, images: Tensor) -> float:
    start = time.perf_counter()
    model.zero_grad()
    model(images).sum().backward()
    return time.perf_counter() - start


def compression_cost(
    recipe: PipelineRecipe, student: ModelSpec | None, baseline: nn.Module, *, n_images: int, epochs: int | None
) -> Cost:
    """Estimate a pipeline by its distillation, which is nearly all of it; the baseline stands for the teacher."""
    from udacisense.stages.distill import student_spec

    options = recipe.steps[0].options
    spec = student or student_spec(options, num_classes=10, size_px=32)  # near enough for a time
    count = epochs if epochs is not None else int(str(options["epochs"]))
    return training_cost(spec, n_images=n_images, epochs=count, teacher=baseline)


def search_cost(options: SearchOptions, baseline: nn.Module, dataset: DataSet) -> Cost:
    """Estimate a search by its family's first network, as if none were halved; another worker shares it."""
    from udacisense.pipeline import find_pipeline
    from udacisense.pipeline.search.run import find_family
    from udacisense.stages.distill import student_spec
    from udacisense.training import training_split

    family = find_family(options.family)
    step = find_pipeline(family.pipeline).steps[0].options
    spec = student_spec(step, num_classes=len(dataset.class_names), size_px=dataset.train.pixels.shape[-1])
    n_images = round(len(training_split(dataset)[0]) * options.supervision.images_for_each)
    length = options.final_epochs or int(str(step["epochs"]))
    n_finalists = options.finalists * len(options.seeds)
    an_epoch = training_cost(spec, n_images=n_images, epochs=1, teacher=baseline)
    n_epochs = options.trials * options.epochs + n_finalists * length
    return Cost(
        what=f"{options.trials} networks for at most {options.epochs} epochs and {n_finalists} for {length}, "
        f"of {n_images:,} images each",
        seconds=an_epoch.seconds * n_epochs,
        disk_bytes=an_epoch.disk_bytes * (1 + n_finalists),
    )


def techniques_cost(
    rows: Sequence[Technique], spec: ModelSpec, baseline: nn.Module, dataset: DataSet, *, epochs: int | None
) -> Cost:
    """Estimate techniques that run one by one on a baseline: those that train by their epochs, all by their tests.

    A row whose quantised engine this host lacks is left out, as when they run.
    """
    from udacisense.base.tensors import supported_engines
    from udacisense.measure.counts import count_parameters
    from udacisense.pipeline.techniques import EPOCHS
    from udacisense.stages.distill import student_spec
    from udacisense.stages.qat import apply_quantization_aware_training
    from udacisense.stages.static import apply_static_quantization
    from udacisense.training import training_split

    n_train, size_px = len(training_split(dataset)[0]), dataset.size_px
    count = EPOCHS if epochs is None else epochs
    answer_s = _answer_s(baseline, (_PROBE_IMAGES, 3, size_px, size_px))
    tested_s = _TECHNIQUE_S + _PASSES * answer_s * len(dataset.test)
    kept_bytes = 4 * count_parameters(baseline)
    trained: dict[str, Cost] = {}  # several techniques train the same network
    costs: list[Cost] = []
    engines = supported_engines()
    chosen = [row for row in rows if row.engine is None or row.engine in engines]
    for row in chosen:
        searched_s = _SEARCH_ANSWERS * answer_s if row.function is apply_static_quantization else 0.0
        costs.append(Cost(what=row.name, seconds=tested_s + searched_s, disk_bytes=kept_bytes))
        if not row.trains:
            continue
        student, made = row.options.get("student"), spec
        if student is not None:
            made = student_spec(row.options, num_classes=len(dataset.class_names), size_px=size_px)
        key = f"{made}{student is None}"
        if key not in trained:
            trained[key] = training_cost(
                made,
                n_images=n_train,
                epochs=count,
                channels_last=student is not None,
                teacher=None if student is None else baseline,
            )
        slower = _ROUNDED if row.function is apply_quantization_aware_training else 1.0
        costs.append(replace(trained[key], seconds=slower * trained[key].seconds))
    names = ", ".join(row.name for row in chosen)
    n_trained = sum(row.trains for row in chosen)
    length = f"{count} epoch{'' if count == 1 else 's'}"
    training = f", {n_trained} of which with {length} of {n_train:,} images" if n_trained else ""
    return total(f"{len(chosen)} technique{'' if len(chosen) == 1 else 's'} ({names}){training}", costs)


def demo_cost(
    models: Mapping[str, Sequence[Precision]],
    *,
    formats: Sequence[str],
    timed: Sequence[str],
    n_images: int | None,
    cores: int,
) -> Cost:
    """Estimate the demo, whose bundles are not there yet: their variants are planned, their models built and timed.

    Args:
        models: name of a model that ships → precisions that it is exported in.
        formats: that each is exported in.
        timed: ids of the variants that are timed.
        n_images: that each bundle is verified on; None: its golden images.
        cores: of this machine.
    """
    import torch

    from exporters.formats.contract import ExportOptions
    from exporters.formats.table import FORMATS
    from exporters.source import GOLDEN_COUNT
    from udacisense.base.records import Artifact, read_json
    from udacisense.measure.counts import count_parameters
    from udacisense.models.build import build_model
    from udacisense.zoo.table import resolve_artifact

    costs = [Cost(what="drawn shapes", seconds=_SHAPES_S, disk_bytes=_SHAPES_BYTES)]
    for name, precisions in models.items():
        record = read_json(Artifact, resolve_artifact(Path(name)) / Artifact.FILE_NAME)
        with torch.random.fork_rng([]):
            model = build_model(record.model)
        options = ExportOptions(formats=tuple(formats), precisions=tuple(precisions))
        rows = [FORMATS[row] for row in options.formats]
        plans = [plan for row in rows if row.unavailable() is None for plan in row.plans(options)]
        image_s = _answer_s(model, (1, *record.signature.input_shape[1:]))
        n_timed = 1 + sum(plan.id in timed for plan in plans)  # and the eager model
        costs += [
            export_cost(options, parameters=count_parameters(model), cores=cores),
            _verification_cost(
                plans,
                image_s=image_s,
                n_images=GOLDEN_COUNT if n_images is None else n_images,
                emulated_images=GOLDEN_COUNT,
                cores=cores,
            ),
            Cost(what="timing", seconds=_TIMED_S * n_timed, disk_bytes=_TIMED_BYTES * n_timed),
        ]
    costs.append(Cost(what="reports", seconds=_REPORTS_S, disk_bytes=_REPORTS_BYTES))
    return total(f"The demo of {', '.join(models)}", costs)


def export_cost(options: ExportOptions, *, parameters: int, cores: int) -> Cost:
    """Estimate an export: a process a format, as many at once as there are cores."""
    from exporters.formats.table import FORMATS

    plans = {name: FORMATS[name].plans(options) for name in options.formats if FORMATS[name].unavailable() is None}
    size = sum(
        _PARAMETER_BYTES.get(plan.precision, 4.0) * parameters + _FILE_BYTES for made in plans.values() for plan in made
    )
    busy_s = [
        _PROCESS_S + len(made) * _VARIANT_S.get(name, _OTHER_VARIANT_S) for name, made in plans.items() if made
    ] or [0.0]
    names = [plan.id for made in plans.values() for plan in made]
    return Cost(
        what=f"{len(names)} variant{'' if len(names) == 1 else 's'}",
        seconds=max(*busy_s, sum(busy_s) / max(1, cores)),
        disk_bytes=int(size) + 4 * parameters,
        details=(", ".join(names),) if names else (),
    )


def verification_cost(bundle: Bundle, options: VerifyOptions) -> Cost:
    """Estimate a verification: a process for each variant and runner, each of which answers every image twice."""
    import os

    from exporters.bundle.reference import load_reference
    from harness.verify.plan import check_runners, check_variants
    from udacisense.base.records import Outcome
    from udacisense.measure.shifts import MOST_IMAGES

    check_runners(options.runners)
    chosen = check_variants(bundle.manifest.variants, options.variants or None)
    model, _ = load_reference(bundle, allow_factory=options.allow_factory)
    n_golden = len(bundle.manifest.golden.images)
    n_images = n_golden if options.dataset is None else len(options.dataset.test)
    beyond = 0 if options.unknown is None else len(options.unknown)
    beyond += 35 * min(n_images, MOST_IMAGES) if options.is_shifted else 0  # 7 shifts at 5 severities
    return _verification_cost(
        [variant for variant in chosen if variant.outcome is Outcome.PASSED],
        image_s=_answer_s(model, (1, *bundle.manifest.signature.input_shape[1:])),
        n_images=n_images + beyond // 2,  # which are answered once
        emulated_images=n_images if options.emulated_images == "all" else n_golden,
        runners=options.runners or None,
        cores=os.cpu_count() or 1,
    )


def _verification_cost(
    variants: Sequence[Variant | Plan],
    *,
    image_s: float,
    n_images: int,
    emulated_images: int,
    runners: Sequence[str] | None = None,
    cores: int,
) -> Cost:
    from harness.runners.table import RUNNERS, verifiers_for

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
    return Cost(
        what=f"{len(cells)} cell{'' if len(cells) == 1 else 's'} on {n_images:,} images",
        seconds=sum(seconds) / max(1, cores),
        disk_bytes=3_000 * len(cells) + 100 * n_images,
        details=tuple(f"{runner}: {', '.join(names)}" for runner, names in by_runner.items()),
    )
