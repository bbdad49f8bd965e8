"""Load and run a file in the Android runtimes that are set up, and hold the answers against this host's interpreter."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import numpy as np

from exporters.bundle.manifest import Loadable, plain
from exporters.bundle.metadata import Metadata, read_extra_file
from exporters.preflight.lite_facts import read_lite
from exporters.source import drawn_images
from harness.cell.run import Cell, answering_job, run_cell
from harness.runtime.catalogue import RUNTIMES
from harness.runtime.setup import unusable
from harness.verify.compare import FloatArray
from udacisense.base.records import Outcome, record
from udacisense.data.batches import normalise
from udacisense.errors import InputError

_IMAGES = 4
_TIMEOUT_S = 300.0
# Of the largest answer; int8 rounds in its own places in each build, a wrong kernel is off by far more.
_RELATIVE_LIMIT = 0.05


@record
class Proof:
    """What came out of one runtime; SKIPPED, with the reason, where it is not set up."""

    runtime: str
    library: str | None
    outcome: Outcome
    reason: str | None
    exit_code: int  # 0; 1 other answers than here, 3 would not load, 4 did not run
    images: int
    max_abs: float | None  # against this host's lite interpreter
    flips: int | None
    labels: tuple[str, ...]  # of its answers: the metadata's, or numbers


def prove(path: Path, *, size_px: int | None = None) -> tuple[Proof, ...]:
    """Run a ``.ptl`` on drawn images in every Android runtime that is set up, each in a process of its own.

    A runtime that cannot be used here has a proof too, which says why.

    Args:
        path: the file.
        size_px: edge of the images that it takes, where the file does not say so itself.

    Raises:
        InputError: no runtime is set up, it is no ``.ptl``, or what it takes is not known.
        LoadError: the file is damaged.
    """
    if path.suffix != ".ptl":
        raise InputError(f"{path} is no .ptl: the Android runtimes here are PyTorch Mobile's.")
    names = [name for name, row in RUNTIMES.items() if "ptl" in row.formats]
    unready = {name: reason for name in names if (reason := unusable(name)) is not None}
    if len(unready) == len(names):
        raise InputError(f"Nothing can be proved here: {'; '.join(unready.values())}.")
    metadata = read_extra_file(path)
    images = _inputs(path, metadata, size_px)
    read_lite(path)
    variant = _loadable(path, metadata)
    with tempfile.TemporaryDirectory(prefix="udacisense-prove-") as folder:
        inputs = Path(folder) / "inputs.npy"
        np.save(inputs, images)

        def run(runner: str) -> Cell:
            engine, batch_size = variant.engine if runner == "lite" else None, variant.batch or 1
            asked = answering_job(
                variant,
                runner,
                path,
                inputs,
                engine=engine,
                threads=1,
                batch_size=batch_size,
                timeout_s=_TIMEOUT_S,
            )
            return run_cell(asked)

        here = run("lite").outputs
        return tuple(
            _skipped(name, unready[name]) if name in unready else _judge(name, run(name), here, metadata)
            for name in names
        )


def _skipped(name: str, reason: str) -> Proof:
    return Proof(
        runtime=name,
        library=None,
        outcome=Outcome.SKIPPED,
        reason=reason,
        exit_code=0,
        images=0,
        max_abs=None,
        flips=None,
        labels=(),
    )


def _inputs(path: Path, metadata: Metadata | None, size_px: int | None) -> FloatArray:
    if metadata is None and size_px is None:
        raise InputError(
            f"{path} does not say what it takes; give the edge of its images with --size, e.g. --size 224."
        )
    edge = metadata.signature.size_px if metadata else size_px
    assert edge is not None
    pixels = drawn_images(_IMAGES, edge).pixels
    if metadata is None:
        values: FloatArray = normalise(pixels).numpy()
    elif metadata.input_kind == "pixels":
        values = pixels.float().numpy()
    else:
        values = normalise(pixels, mean=metadata.signature.mean, std=metadata.signature.std).numpy()
    return values


def _loadable(path: Path, metadata: Metadata | None) -> Loadable:
    bare = plain(path.stem, "ptl")
    if metadata is None:
        return bare
    return dataclasses.replace(
        bare,
        precision=metadata.precision,
        engine=metadata.engine,
        input_kind=metadata.input_kind,
        output_kind=metadata.output_kind,
        batch=metadata.batch,
    )


def _judge(name: str, cell: Cell, here: FloatArray | None, metadata: Metadata | None) -> Proof:
    outcome, reason, code = cell.result.outcome, cell.result.reason, cell.result.exit_code
    max_abs: float | None = None
    flips: int | None = None
    labels: tuple[str, ...] = ()
    if cell.outputs is not None:
        chosen = cell.outputs.argmax(axis=1)
        labels = tuple(metadata.signature.labels[i] if metadata else str(i) for i in chosen.tolist())
        if here is not None and here.shape == cell.outputs.shape:
            max_abs, flips = float(np.abs(cell.outputs - here).max()), int((chosen != here.argmax(axis=1)).sum())
            if not max_abs <= _RELATIVE_LIMIT * float(np.abs(here).max()):  # also true for NaN
                outcome, code = Outcome.FAILED, 1
                reason = f"it answers otherwise than this host's interpreter: max |Δ| {max_abs:.3g}, {flips} labels"
    library = cell.result.actual.get("library")
    return Proof(
        runtime=name,
        library=None if library is None else str(library),
        outcome=outcome,
        reason=reason,
        exit_code=code,
        images=_IMAGES,
        max_abs=max_abs,
        flips=flips,
        labels=labels,
    )
