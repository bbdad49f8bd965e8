"""``udacisense demo``: the main job, run through the very commands that a user would type."""

from __future__ import annotations

import logging
import os
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from udacisense.cli.options import OutputPath
from udacisense.cli.output import announce, dry_run_option, duration, next_command, say, say_cost

if TYPE_CHECKING:
    from exporters.bundle.manifest import Precision
    from udacisense.measure.estimate import Estimate

# float32 of each model, and int8 where it is what would ship; of the cascade the two ways that are small enough.
_EVERYWHERE = ("ptl", "onnx", "coreml")
_EXPORTED: dict[str, tuple[tuple[str, ...], tuple[Precision, ...]]] = {
    "baseline": (_EVERYWHERE, ("fp32",)),
    "p1": (_EVERYWHERE, ("fp32", "int8-static")),
    "tiny": (_EVERYWHERE, ("fp32", "int8-static")),
    "cascade": (("ptl", "onnx"), ("int8-static",)),
}
_TIMED = ("ptl-fp32", "ptl-int8-static-qnnpack", "onnx-fp32", "onnx-int8-static")
_TRAINING, _TEST = 40, 20  # images drawn a class
# Networks start from the weights that ship, and two see the shapes at 64 px: each run is then a matter of seconds.
_COMPRESSED = {
    "baseline": "train --model baseline --resolution 64 --epochs 3",
    "p1": "compress --pipeline p1 --resolution 64 --epochs 2 --lr 1e-3",
    "p2": "compress --pipeline p2 --epochs 6 --batch-size 32 --lr 1e-3 --ema 0.9",
}
# For an estimate. Of a quick sweep: five processes a variant; of the demo's reports: two documents, one with its plots;
# of the first part: a small baseline and the two pipelines of it, on drawn shapes.
_TIMED_S = 12.0
_TIMED_BYTES = 20_000
_REPORTS_S = 20.0
_REPORTS_BYTES = 1_000_000
_SHAPES_S = 60.0
_SHAPES_BYTES = 60_000_000
_ABOUT = (
    "First a small baseline is trained on drawn shapes and compressed by two pipelines. These figures are about shapes "
    "and say nothing about photos."
)


@click.command("demo", short_help="Run the whole job in minutes, on drawn shapes and on the models that ship.")
@click.option("-o", "--output", default="demo", show_default=True, type=OutputPath(is_folder=True))
@click.option("--data", help="Verify on these images too: 'cifar100' (downloaded), or the household folder.")
@dry_run_option
def command(*, output: Path, data: str | None, dry_run: bool) -> None:
    """Train and compress a network on drawn shapes; then export, verify, time and report what ships.

    Nothing is downloaded, and it takes some minutes. The figures of the first part are about shapes. Without --data
    the shipped models' files are compared on each bundle's own golden images; accuracy is then what the models'
    records say.
    """
    from udacisense.data.images import load_dataset

    n_images = None if data is None else len(load_dataset(data).test)
    cores = os.cpu_count() or 1
    cost = _estimate(_EXPORTED, timed=_TIMED, n_images=n_images, cores=cores)
    compressing, shipping = _compressing(output), _shipping(output, data)
    if dry_run:
        say_cost("\n".join(f"udacisense {line}" for line in compressing + shipping))
    announce(cost, output)
    if dry_run:
        return
    start = time.monotonic()
    say(f"\n{_ABOUT}")
    _draw(output / "compress" / "shapes")
    for line in compressing:
        _run_line(line)
    say("\nNow the models that ship, which were trained on photos, and the cascade of two of them.")
    for line in shipping:
        _run_line(line)
    say(f"\nThe whole job took {duration(time.monotonic() - start)}. Open {output}/report.html in a browser.")
    say("With your own images:")
    line = "train --data DIR --model baseline --init imagenet -o runs/baseline"
    next_command("udacisense", *line.split())


def _draw(folder: Path) -> None:
    """Draw the images; a folder that is there was drawn before, and whole."""
    from udacisense.data.shapes import draw_dataset

    if not folder.exists():
        draw_dataset(folder, train_per_class=_TRAINING, test_per_class=_TEST, seed=0)
        say(f"Drawn into {folder}: ten shapes, {_TRAINING} training and {_TEST} test images each.")


def _compressing(output: Path) -> list[str]:
    from udacisense.models.artifact import WEIGHTS_NAME
    from udacisense.zoo.table import zoo_folder

    place = output / "compress"
    given = {
        "baseline": ("--init", zoo_folder("baseline") / WEIGHTS_NAME),
        "p1": ("--baseline", place / "baseline" / "artifact"),
        "p2": ("--baseline", place / "baseline" / "artifact", "--student-init", zoo_folder("tiny") / WEIGHTS_NAME),
    }
    return [
        f"{line} {shlex.join(map(str, (*given[name], '--data', place / 'shapes', '-o', place / name)))}"
        for name, line in _COMPRESSED.items()
    ]


def _shipping(output: Path, data: str | None) -> list[str]:
    def at(name: str) -> str:
        return shlex.quote(str(output / name))

    bundles = {name: at(f"ship/{name}") for name in _EXPORTED}
    images = f" --data {shlex.quote(data)}" if data else ""
    lines = []
    for name, folder in bundles.items():
        formats, precisions = _EXPORTED[name]
        options = [*(f"-f {one}" for one in formats), *(f"--precision {one}" for one in precisions)]
        lines.append(f"export {_shipped(name)} {' '.join(options)}{images} -o {folder}")
    lines += [f"verify {folder}{images}" for folder in bundles.values()]
    timed = " ".join(f"--variant {name}" for name in _TIMED)
    folders = " ".join(bundles.values())
    lines.append(f"bench {folders} --quick --threads 1 {timed} -o {at('ship/bench.json')}")
    everything = f"report {' '.join(map(_shipped, _EXPORTED))} {at('ship')}"
    lines += [f"{everything} -o {at('report.md')}", f"{everything}{images} -o {at('report.html')}"]
    return lines


def _shipped(name: str) -> str:
    """Return how a command is told of a model that ships: a folder of the user's own hides its name."""
    from udacisense.zoo.table import resolve_artifact, zoo_folder

    folder = zoo_folder(name)
    return name if resolve_artifact(Path(name)) == folder else shlex.quote(str(folder))


def _run_line(line: str) -> None:
    from udacisense.cli.main import INTERRUPTED
    from udacisense.errors import UdacisenseError

    say(f"\n$ udacisense {line}")
    code = _run(line)
    if code == INTERRUPTED:
        raise click.Abort
    if code not in (0, 1):  # 1 is an answer: a file that differs is what verification is there to say
        raise UdacisenseError(f"'udacisense {line}' ended with exit code {code}; see above.")


def _run(line: str) -> int:
    from udacisense.base.progress import is_quiet
    from udacisense.cli.main import run

    is_verbose = logging.getLogger("udacisense").level == logging.DEBUG
    told = ["--quiet"] if is_quiet() else ["--verbose"] if is_verbose else []
    return run([*told, *shlex.split(line)])


def _estimate(
    models: Mapping[str, tuple[Sequence[str], Sequence[Precision]]],
    *,
    timed: Sequence[str],
    n_images: int | None,
    cores: int,
) -> Estimate:
    """Estimate the demo, whose bundles are not there yet: their variants are planned, their models built and timed.

    Args:
        models: name of a model that ships → formats and precisions that it is exported in.
        timed: ids of the variants that are timed.
        n_images: that each bundle is verified on; None: its golden images.
        cores: of this machine.
    """
    import torch

    from exporters.export import estimate_export
    from exporters.formats.contract import ExportOptions
    from exporters.formats.table import FORMATS
    from exporters.source import GOLDEN_COUNT
    from harness.verify.run import estimate_cells
    from udacisense.base.records import Artifact, read_json
    from udacisense.measure.counts import count_parameters
    from udacisense.measure.estimate import Estimate, seconds_an_image, total
    from udacisense.models.build import build_model
    from udacisense.models.cascade import model_folders
    from udacisense.zoo.table import zoo_folder

    images = GOLDEN_COUNT if n_images is None else n_images
    costs = [Estimate(what="drawn shapes", seconds=_SHAPES_S, disk_bytes=_SHAPES_BYTES)]
    folders = [(place, wanted) for name, wanted in models.items() for place in model_folders(zoo_folder(name))]
    for folder, (formats, precisions) in folders:
        record = read_json(Artifact, folder / Artifact.FILE_NAME)
        with torch.random.fork_rng([]):
            model = build_model(record.model)
        options = ExportOptions(formats=tuple(formats), precisions=tuple(precisions))
        rows = [FORMATS[row] for row in options.formats]
        plans = [plan for row in rows if row.unavailable() is None for plan in row.plans(options)]
        image_s = seconds_an_image(model, (1, *record.signature.input_shape[1:]))
        n_timed = 1 + sum(plan.id in timed for plan in plans)  # and the eager model
        costs += [
            estimate_export(options, parameters=count_parameters(model), cores=cores),
            estimate_cells(plans, image_s=image_s, n_images=images, emulated_images=GOLDEN_COUNT, cores=cores),
            Estimate(what="timing", seconds=_TIMED_S * n_timed, disk_bytes=_TIMED_BYTES * n_timed),
        ]
    costs.append(Estimate(what="reports", seconds=_REPORTS_S, disk_bytes=_REPORTS_BYTES))
    return total(f"The demo of {', '.join(models)}", costs)
