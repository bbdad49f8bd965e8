"""Count the ARM instructions of networks that the search draws, and fit what ``udacisense search`` estimates with.

Run it from the repository's root, where the runtime counts that ``udacisense runtime add android-arm64`` sets up::

    python tests/campaigns/instructions_fit.py --networks 24

It adds networks with random weights to ``tests/campaigns/instructions.json``, half a minute each, and prints
:data:`udacisense.pipeline.search.cost.FACTORS`: non-negative least squares of relative errors. The error that it prints
is of networks that were left out, one after the other.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import optuna

from exporters.export import export_bundle
from exporters.formats.contract import ExportOptions
from exporters.source import make_source
from harness.runtime.count import count
from udacisense.base.records import ModelSpec, read_json, record, write_record
from udacisense.data.images import make_signature
from udacisense.models.build import PRESETS, build_model
from udacisense.pipeline.search.cost import PARTS, work_by_part
from udacisense.pipeline.search.space import FAMILIES, Task

HERE = Path(__file__).resolve().parent
SIZE_PX = 32
MOST_M = 60.0  # millions of multiply-adds of a drawn network


@record
class Counted:
    """One network."""

    model: ModelSpec
    work: tuple[float, ...]  # as PARTS
    arm_instructions: float


@record
class CountedNetworks:
    """``instructions.json``."""

    library: str
    cpu: str
    networks: tuple[Counted, ...]

    FILE_NAME: ClassVar[str] = "instructions.json"


def drawn(n: int, seed: int) -> list[ModelSpec]:
    """Draw networks, one in five of MobileNetV3's family; those that ship come first."""
    found = [PRESETS["p2-student"], PRESETS["p1-student"], PRESETS["tiny"]] if seed == 0 else []
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    studies = {name: optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)) for name in FAMILIES}
    task = Task(num_classes=10, size_px=SIZE_PX)
    while len(found) < n:
        family = FAMILIES["mobilenet_v3_small" if len(found) % 5 == 4 else "blocks"]
        spec = family.draw(studies[family.name].ask(), task)
        with_work = work_by_part(build_model(spec), (1, 3, SIZE_PX, SIZE_PX))
        if sum(with_work[2:4]) <= MOST_M:
            found.append(spec)
    return found


def counted(spec: ModelSpec) -> tuple[Counted, str, str]:
    """Export a network as plain .ptl and count it."""
    model = build_model(spec).eval()
    signature = make_signature(tuple(f"class {i}" for i in range(10)), size_px=SIZE_PX)
    source = make_source(name="drawn", model=model, spec=spec, signature=signature, dataset=None)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "bundle"
        export_bundle(source, folder, options=ExportOptions(formats=("ptl",), precisions=("fp32",)))
        found = count(folder / "model-ptl-fp32.ptl", np.zeros((1, 3, SIZE_PX, SIZE_PX), np.float32))
    work = work_by_part(model, (1, 3, SIZE_PX, SIZE_PX))
    return Counted(model=spec, work=work, arm_instructions=found.instructions_per_call), found.library, found.cpu


def fit(networks: tuple[Counted, ...]) -> np.ndarray:
    """Return the instructions of each part of :data:`PARTS`."""
    from scipy.optimize import nnls

    y = np.array([row.arm_instructions for row in networks])
    x = np.array([row.work for row in networks]) / y[:, None]
    return np.asarray(nnls(x, np.ones(len(y)))[0])


def main() -> None:
    """Count, keep, fit, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=int, default=0, help="How many to count now.")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    place = HERE / CountedNetworks.FILE_NAME
    kept = read_json(CountedNetworks, place) if place.is_file() else None
    for spec in drawn(given.networks, given.seed):
        if kept is not None and any(row.model == spec for row in kept.networks):
            continue
        row, library, cpu = counted(spec)
        kept = CountedNetworks(library=library, cpu=cpu, networks=(*(kept.networks if kept else ()), row))
        write_record(place, kept)
        sys.stderr.write(f"{row.arm_instructions / 1e6:.2f} M  {spec.options}\n")
    assert kept is not None
    factors = fit(kept.networks)
    errors = []
    for i, row in enumerate(kept.networks):
        without = fit(kept.networks[:i] + kept.networks[i + 1 :])
        errors.append(float(np.dot(without, row.work)) / row.arm_instructions - 1)
    for part, factor in zip(PARTS, factors, strict=True):
        sys.stdout.write(f'    "{part}": {factor:.4g},\n')
    sizes = np.abs(errors)
    sys.stdout.write(f"{len(errors)} networks, error {100 * np.median(sizes):.1f} % in the middle, ")
    sys.stdout.write(f"{100 * np.quantile(sizes, 0.9):.1f} % of nine in ten, {100 * sizes.max():.1f} % at most\n")


if __name__ == "__main__":
    main()
