"""``verify --locate``: where a variant broke, and a folder that reproduces it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from exporters.bundle.manifest import Variant
from exporters.bundle.open import Bundle
from exporters.toolchain.setup import python_of
from harness.inputs import golden_pack, normalized, probe_images, real_inputs
from harness.runners.table import Runner, runners_for
from harness.verify.locate.job import RUNG_FILE, Found, LocateJob, RungError
from harness.verify.locate.reproducer import write_reproducer
from harness.verify.options import VerifyOptions
from udacisense.base.child import RESULT, run_child
from udacisense.base.records import Outcome, read_json, write_record
from udacisense.data.images import DataSet, spread_rows
from udacisense.errors import InputError

_IMAGES = 48  # real ones, evenly drawn; each rung answers them one by one


def locate(bundle: Bundle, variant_id: str, options: VerifyOptions, *, out: Path | None = None) -> Found:
    """Climb the stage ladder of one variant and find the first rung, and the first layer in it, out of tolerance.

    Args:
        bundle: an open one.
        variant_id: of the bundle.
        options: of its data set some test images are used, probes are added; the first of its runners that can
            runs the variant, where it names none the first of all.
        out: new folder for the reproducer (inputs, expected, got, the file, a script); None: none is written. It is
            written only where something broke.

    Raises:
        InputError: the variant has no file, or no runner can run it here.
    """
    variant = bundle.variant(variant_id)
    if variant.outcome is not Outcome.PASSED or variant.path is None:
        raise InputError(
            f"{variant_id} has no file ({variant.reason or 'not exported'}): nothing can be located in it."
        )
    row = _runner(variant, options.runners)
    with tempfile.TemporaryDirectory(prefix="udacisense-locate-") as name:
        folder = Path(name)
        np.save(folder / "inputs.npy", _inputs(bundle, variant, options.dataset))
        job = LocateJob(
            bundle=str(bundle.root.absolute()),
            variant_id=variant_id,
            runner=row.name,
            engine=variant.engine if row.quantized_engines or variant.engine is not None else None,
            threads=options.threads,
            inputs_path=str(folder / "inputs.npy"),
            allow_factory=options.allow_factory,
        )
        write_record(folder / LocateJob.FILE_NAME, job)
        failure = run_child(
            "harness.verify.locate.worker",
            folder,
            threads=options.threads,
            timeout_s=options.timeout_s,
            python=python_of(row.toolchain),
        )
        found = _crashed(folder, job, failure) if failure is not None else read_json(Found, folder / RESULT)
        if out is not None and found.rung is not None:
            write_reproducer(out, folder, found, variant, bundle.path(variant.path))
    return found


def _inputs(bundle: Bundle, variant: Variant, dataset: DataSet | None) -> NDArray[np.float32]:
    """Return evenly drawn images of the data set or the golden pack, and every probe, as the variant takes them."""
    signature = bundle.manifest.signature
    real = golden_pack(bundle.root, bundle.manifest).inputs if dataset is None else real_inputs(dataset, signature)
    rows = spread_rows(len(real), _IMAGES)
    pixels = np.concatenate([real.pixels[rows], np.stack(list(probe_images(signature.size_px).values()))])
    return normalized(pixels, signature) if variant.input_kind == "normalized" else pixels.astype(np.float32)


def _runner(variant: Variant, names: Sequence[str]) -> Runner:
    rows = [row for row in runners_for(variant.format) if not names or row.name in names]
    if not rows:
        given = ", ".join(row.name for row in runners_for(variant.format))
        raise InputError(f"{variant.id} is run by {given}, not by {' or '.join(map(repr, names))}.")
    for row in rows:
        if row.unavailable() is None:
            return row
    raise InputError(f"{variant.id} cannot be run here: {rows[0].name}: {rows[0].unavailable()}.")


def _crashed(folder: Path, job: LocateJob, failure: str) -> Found:
    """Place a crash by the rung that the process had reached."""
    marker = folder / RUNG_FILE
    rung = marker.read_text(encoding="utf-8") if marker.exists() else "the start"
    error = RungError(name=rung, max_abs=None, relative=None, outcome=Outcome.FAILED, reason=failure)
    return Found(
        schema_version=1,
        variant_id=job.variant_id,
        runner=job.runner,
        rungs=(error,),
        rung=rung,
        suspect=None,
        reason=f"It broke at {rung}: {failure}.",
        worst_inputs=(0,),
    )
