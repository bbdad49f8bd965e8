"""``udacisense demo``: the main job, run through the very commands that a user would type."""

from __future__ import annotations

import logging
import os
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from udacisense.cli.output import dry_run_option, duration, next_command, say, say_cost

if TYPE_CHECKING:
    from exporters.bundle.manifest import Precision

_MODELS = ("baseline", "p1", "tiny")
# float32 everywhere, and int8 where it is what would ship.
_PRECISIONS: dict[str, tuple[Precision, ...]] = {
    "baseline": ("fp32",),
    "p1": ("fp32", "int8-static"),
    "tiny": ("fp32", "int8-static"),
}
_FORMATS = ("ptl", "onnx", "coreml")
_TIMED = ("ptl-fp32", "ptl-fp32-xnnpack", "ptl-int8-static-qnnpack", "onnx-fp32")


@click.command("demo", short_help="Run the whole job in minutes on the trained models that ship.")
@click.option("-o", "--output", default="demo", show_default=True, type=click.Path(path_type=Path))
@click.option("--data", help="Verify on these images too: 'cifar100' (downloaded), or the household folder.")
@dry_run_option
def command(*, output: Path, data: str | None, dry_run: bool) -> None:
    """Export the three models that ship, prove every file equal to its source, time them, and report.

    Nothing is trained and nothing is downloaded: it takes some minutes. Without --data the files are compared on each
    bundle's own golden images; accuracy is then what the models' records say.
    """
    from udacisense.cli.costs import announce, demo_cost
    from udacisense.cli.main import INTERRUPTED
    from udacisense.data.images import load_dataset
    from udacisense.errors import UdacisenseError

    n_images = None if data is None else len(load_dataset(data).test)
    cores = os.cpu_count() or 1
    cost = demo_cost(_PRECISIONS, formats=_FORMATS, timed=_TIMED, n_images=n_images, cores=cores)
    lines = _commands(output, data)
    if dry_run:
        say_cost("\n".join(f"udacisense {line}" for line in lines))
    announce(cost, output)
    if dry_run:
        return
    start = time.monotonic()
    for line in lines:
        say(f"\n$ udacisense {line}")
        code = _run(line)
        if code == INTERRUPTED:
            raise click.Abort
        if code not in (0, 1):  # 1 is an answer: a file that differs is what verification is there to say
            raise UdacisenseError(f"'udacisense {line}' ended with exit code {code}; see above.")
    say(f"\nThe whole job took {duration(time.monotonic() - start)}. Open {output}/report.html in a browser.")
    say("With your own images:")
    line = "train --data DIR --model baseline --init imagenet -o runs/baseline"
    next_command("udacisense", *line.split())


def _commands(output: Path, data: str | None) -> list[str]:
    def at(name: str) -> str:
        return shlex.quote(str(output / name))

    bundles = {name: at(name) for name in _MODELS}
    formats = " ".join(f"-f {name}" for name in _FORMATS)
    images = f" --data {shlex.quote(data)}" if data else ""
    lines = []
    for name, folder in bundles.items():
        precisions = " ".join(f"--precision {precision}" for precision in _PRECISIONS[name])
        lines.append(f"export {name} {formats} {precisions}{images} -o {folder}")
    lines += [f"verify {folder}{images}" for folder in bundles.values()]
    timed = " ".join(f"--variant {name}" for name in _TIMED)
    folders = " ".join(bundles.values())
    lines.append(f"bench {folders} --quick --threads 1 {timed} -o {at('bench.json')}")
    everything = f"report {' '.join(_MODELS)} {shlex.quote(str(output))}"
    lines += [f"{everything} -o {at('report.md')}", f"{everything}{images} -o {at('report.html')}"]
    return lines


def _run(line: str) -> int:
    from udacisense.base.progress import is_quiet
    from udacisense.cli.main import run

    is_verbose = logging.getLogger("udacisense").level == logging.DEBUG
    told = ["--quiet"] if is_quiet() else ["--verbose"] if is_verbose else []
    return run([*told, *shlex.split(line)])
