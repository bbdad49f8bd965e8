"""Look into files, in a process of its own: they may be damaged."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from exporters.bundle.manifest import Variant
from exporters.bundle.open import Bundle
from exporters.formats.table import FORMATS as FORMAT_ROWS
from exporters.toolchain.setup import python_of
from harness.verify.inside.job import Inside, InsideJob, InsideResult
from harness.verify.options import VerifyOptions
from udacisense.base.child import RESULT, run_child
from udacisense.base.records import read_json, write_record

# Precisions whose answers are too coarse to show a small fault; the others are held to their source's numbers.
PRECISIONS = ("fp16", "int8-dynamic", "int8-static", "int8-weights", "palette6", "palette4")
FORMATS = ("onnx", "coreml", "executorch", "tflite")


def look_inside(bundle: Bundle, variants: Sequence[Variant], options: VerifyOptions) -> Mapping[str, Inside]:
    """Return what was found, by variant id, of the variants that this can look into.

    All of them are read in one process; where that dies, each in its own, so that the guilty one is named.
    An ``.ort`` is held against the answers of the ``.onnx`` that it was optimised from: what is wrong with that one is
    wrong with it.
    """
    coarse = [v for v in variants if v.precision in PRECISIONS and v.path is not None]
    ids = [v.id for v in coarse if v.format in FORMATS]
    graphs = {v.precision: v.id for v in bundle.exported() if v.format == "onnx"}
    sisters = {v.id: graphs[v.precision] for v in coarse if v.format == "ort" and v.precision in graphs}
    found = _look(bundle, tuple(dict.fromkeys((*ids, *sisters.values()))), options)
    return {name: found[name] for name in ids} | {
        name: Inside(
            problems=tuple(f"in {sister}: {problem}" for problem in found[sister].problems),
            not_made=found[sister].not_made,
            notes=found[sister].notes,
        )
        for name, sister in sisters.items()
    }


def _look(bundle: Bundle, ids: tuple[str, ...], options: VerifyOptions) -> dict[str, Inside]:
    """Look by the environment that reads a format."""
    found: dict[str, Inside] = {}
    by_python: dict[Path | None, list[str]] = {}
    for name in ids:
        row = FORMAT_ROWS.get(bundle.variant(name).format)
        if row is not None and row.toolchain is not None and (reason := row.unavailable()) is not None:
            found[name] = Inside(notes=(f"what is in it was not looked at: {reason}",))
            continue
        by_python.setdefault(python_of(row.toolchain) if row else None, []).append(name)
    for python, names in by_python.items():
        found |= _look_by(python, bundle, tuple(names), options)
    return found


def _look_by(python: Path | None, bundle: Bundle, ids: tuple[str, ...], options: VerifyOptions) -> dict[str, Inside]:
    result = _run(python, bundle, ids, options)
    if isinstance(result, InsideResult):
        return result.found
    found: dict[str, Inside] = {}
    for name in ids:
        alone = _run(python, bundle, (name,), options)
        dead = Inside(not_made=(f"what is in it was not looked at: {alone}",))
        found[name] = alone.found[name] if isinstance(alone, InsideResult) else dead
    return found


def _run(python: Path | None, bundle: Bundle, ids: tuple[str, ...], options: VerifyOptions) -> InsideResult | str:
    with tempfile.TemporaryDirectory(prefix="udacisense-inside-") as name:
        folder = Path(name)
        job = InsideJob(bundle=str(bundle.root.absolute()), variant_ids=ids, allow_factory=options.allow_factory)
        write_record(folder / InsideJob.FILE_NAME, job)
        failure = run_child("harness.verify.inside.worker", folder, timeout_s=options.timeout_s, python=python)
        return failure if failure is not None else read_json(InsideResult, folder / RESULT)
