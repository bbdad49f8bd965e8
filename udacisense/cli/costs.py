"""What a command will take, estimated before it is spent: seconds on this machine, and bytes on its disk.

Training is timed on a few images; the rest goes by the number of processes and files. Read the figures as "about".
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from udacisense.cli.output import duration, say_cost
from udacisense.display import megabytes

if TYPE_CHECKING:
    from torch import Tensor, nn

    from exporters.bundle import Bundle
    from exporters.formats import ExportOptions
    from udacisense.pipeline import PipelineRecipe
    from udacisense.types import ModelSpec

_PROBE_IMAGES = 8
_PROCESS_S = 3.0  # an interpreter with torch and a runtime in it
_VARIANT_S = {"coreml": 4.0, "executorch": 4.0}  # converting one variant; the others take about a second
_OTHER_VARIANT_S = 1.0
_FILE_BYTES = 60_000  # code, metadata and operator tables of one exported file
# Bytes a parameter. Dynamic int8 packs the linear layers alone: counted as if that were nothing.
_PARAMETER_BYTES = {"fp16": 2.0, "int8-static": 1.0, "int8-weights": 1.0, "palette6": 0.8, "palette4": 0.5}
_SLOWER = {"mil": 30.0, "android-arm64": 30.0}  # against the eager model, per image


@dataclass(frozen=True, kw_only=True)
class Cost:
    """An estimate."""

    what: str  # what will be done, in a few words
    seconds: float
    disk_bytes: int


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


def training_cost(
    spec: ModelSpec, *, n_images: int, epochs: int, channels_last: bool = False, teacher: nn.Module | None = None
) -> Cost:
    """Estimate a training run on the CPU: one step on a few images is timed, nothing is kept of it."""
    import torch

    from udacisense.metrics import median_latency_ms
    from udacisense.models import build_model, count_parameters

    with torch.random.fork_rng([]):
        model = build_model(spec).train()
        images = torch.randn(_PROBE_IMAGES, 3, *[int(spec.options.get("size_px") or 32)] * 2)
        if channels_last:
            model, images = model.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        seconds = min(_step_s(model, images) for _ in range(3)) / _PROBE_IMAGES
    if teacher is not None:
        seconds += median_latency_ms(teacher, tuple(images.shape)) / 1e3 / _PROBE_IMAGES
    # The checkpoint holds the weights, the best ones and two moments of each, twice while it is replaced.
    disk_bytes = 9 * 4 * count_parameters(model)
    return Cost(
        what=f"{epochs} epoch{'' if epochs == 1 else 's'} of {n_images:,} images",
        seconds=seconds * n_images * epochs,
        disk_bytes=disk_bytes,
    )


def _step_s(model: nn.Module, images: Tensor) -> float:
    start = time.perf_counter()
    model.zero_grad()
    model(images).sum().backward()
    return time.perf_counter() - start


def compression_cost(
    recipe: PipelineRecipe, student: ModelSpec | None, baseline: nn.Module, *, n_images: int, epochs: int | None
) -> Cost:
    """Estimate a pipeline by its distillation, which is nearly all of it; the baseline stands for the teacher."""
    from udacisense.models import preset

    options = recipe.steps[0].options
    spec = student or preset(str(options["student"]))
    count = epochs if epochs is not None else int(str(options["epochs"]))
    return training_cost(spec, n_images=n_images, epochs=count, teacher=baseline)


def export_cost(options: ExportOptions, *, parameters: int, cores: int) -> Cost:
    """Estimate an export: a process a format, as many at once as there are cores."""
    from exporters.formats import FORMATS

    plans = {name: FORMATS[name].plans(options) for name in options.formats if FORMATS[name].unavailable() is None}
    size = sum(
        _PARAMETER_BYTES.get(plan.precision, 4.0) * parameters + _FILE_BYTES for made in plans.values() for plan in made
    )
    busy_s = [
        _PROCESS_S + len(made) * _VARIANT_S.get(name, _OTHER_VARIANT_S) for name, made in plans.items() if made
    ] or [0.0]
    names = ", ".join(plan.id for made in plans.values() for plan in made)
    return Cost(
        what=f"{sum(map(len, plans.values()))} variants ({names})",
        seconds=max(*busy_s, sum(busy_s) / max(1, cores)),
        disk_bytes=int(size) + 4 * parameters,
    )


def verification_cost(
    bundle: Bundle,
    *,
    n_images: int,
    emulated_images: int,
    runners: Sequence[str] | None,
    variants: Sequence[str] | None,
    allow_factory: str | None,
    cores: int,
) -> Cost:
    """Estimate a verification: a process for each variant and runner, each of which answers every image twice.

    An emulated runner is fed ``emulated_images``.
    """
    from exporters.bundle import load_reference
    from harness.runners import RUNNERS, runners_for
    from harness.verify_cells import check_runners, check_variants
    from udacisense.metrics import median_latency_ms
    from udacisense.types import Outcome

    check_runners(runners)
    chosen = check_variants(bundle.manifest.variants, variants)
    model, _ = load_reference(bundle, allow_factory=allow_factory)
    image_s = median_latency_ms(model, (1, *bundle.manifest.signature.input_shape[1:])) / 1e3
    cells = [
        (variant.id, row.name)
        for variant in chosen
        if variant.outcome is Outcome.PASSED
        for row in runners_for(variant.format)
        if (runners is None or row.name in runners) and row.unavailable() is None
    ]
    counts = [emulated_images if RUNNERS[runner].is_emulated else n_images for _, runner in cells]
    seconds = [
        _PROCESS_S + 2 * count * image_s * _SLOWER.get(runner, 1.0)
        for (_, runner), count in zip(cells, counts, strict=True)
    ]
    names = ", ".join(f"{variant} in {runner}" for variant, runner in cells)
    return Cost(
        what=f"{len(cells)} cells on {n_images} images ({names})",
        seconds=sum(seconds) / max(1, cores),
        disk_bytes=3_000 * len(cells) + 100 * n_images,
    )
