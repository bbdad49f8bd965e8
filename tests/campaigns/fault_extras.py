"""What some kinds of faults need beside the usual work: a Core ML package, an app, requirements, and more records."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from bench_records import measurement_of

from exporters.bundle.manifest import Manifest
from exporters.bundle.open import bundle_sha256, open_bundle
from harness.device.contract import RUNNER
from harness.device.results import to_bench_set
from harness.records import BenchSet, Measurement, MeasurementSet
from udacisense.base.files import atomic_path, sha256_file
from udacisense.base.records import Outcome, read_json, write_record
from udacisense.cli.main import run

EVALUATE = "evaluate {w}/base/artifact --data {w}/shapes --json"
COREML = "export {w}/base/artifact -f coreml --precision fp16 -o {t}"
TECHNIQUES = (
    "techniques --baseline {w}/base/artifact --data {w}/shapes --technique dynamic-int8 --technique graph -o {t}"
)
_PAGE_BYTES = 4096
_PADDING = struct.Struct("<HH")
REQUIREMENTS = """\
[consistency]
required = ["ptl-*"]

[accuracy]
max_drop_points = 5.0
min_top1_fraction = 0.01

[size]
max_bytes = 5_000_000
min_reduction_percent = 1.0
reference = "onnx-fp32"

[speed]
max_median_ms = 200.0
min_speedup = 0.1

[[variant]]
match = "*-fp32"
accuracy = { max_drop_points = 10.0 }
"""


def add_extras(work: Path) -> None:
    """Make what is not there yet; each thing is there whole, or not at all."""
    makers: dict[str, Callable[[Path, Path], None]] = {
        "coreml": lambda w, target: _command(COREML.format(w=w, t=target)),
        "techniques": lambda w, target: _command(TECHNIQUES.format(w=w, t=target)),
        "base.evaluation.json": _evaluation,
        "gate.toml": lambda _, target: _text(target, REQUIREMENTS),
        "app.apk": lambda _, target: _app(target),
        "phone": _phone_records,
    }
    for name, make in makers.items():
        if not (work / name).exists():
            with atomic_path(work / name) as partial:
                make(work, partial)


def _command(line: str) -> str:
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        code = run(line.split())
    assert code == 0, line
    return told.getvalue()


def _text(target: Path, text: str) -> None:
    target.write_text(text, encoding="utf-8")


def _evaluation(work: Path, target: Path) -> None:
    _text(target, _command(EVALUATE.format(w=work)))


def _app(target: Path) -> None:
    """An APK that passes: real libraries, NumPy's smallest, one stored on a page border and one compressed."""
    library = min(Path(np.__file__).parent.rglob("*.so"), key=lambda path: path.stat().st_size).read_bytes()
    stored = zipfile.ZipInfo("lib/x86/libstored.so")
    padding = _PAGE_BYTES - 30 - len(stored.filename) - 4  # header, name, and what says how long the padding is
    stored.extra = _PADDING.pack(0xD935, padding) + bytes(padding)
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr(stored, library)
        archive.writestr("lib/x86/libpacked.so", library, compress_type=zipfile.ZIP_DEFLATED)
        archive.writestr("AndroidManifest.xml", "binary xml")
    _command(f"preflight --apk {target}")


def as_app(measurement: Measurement, **actual: int) -> Measurement:
    """A row that was measured here, under the name that the app signs with."""
    spec = dataclasses.replace(measurement.spec, runner=RUNNER)
    return dataclasses.replace(measurement, spec=spec, actual={**measurement.actual, **actual})


def app_selftest(work: Path) -> MeasurementSet:
    """What the app would have written of a self-test: what was verified here, in its rows."""
    verified = read_json(MeasurementSet, work / "bundle.verify.json")
    return dataclasses.replace(
        verified,
        bundle_sha256=sha256_file(work / "bundle" / Manifest.FILE_NAME),
        measurements=tuple(as_app(m) for m in verified.measurements if m.outcome is Outcome.PASSED),
    )


def timed_here(work: Path) -> list[Measurement]:
    """Every measurement of the sweep that has times of the app's variant."""
    made = read_json(BenchSet, work / "bundle.bench.json")
    cells = {cell.id: cell for cell in made.cells if cell.variant_id == "onnx-fp32"}
    return [
        measurement_of(cells[run.cell_id], run, made.budget)
        for run in made.runs
        if run.timing is not None and run.cell_id in cells
    ]


def _phone_records(work: Path, target: Path) -> None:
    """Records as ``device pull`` leaves them, of a self-test and of a bench."""
    bundle = open_bundle(work / "bundle")
    answer = app_selftest(work)
    own = dataclasses.replace(answer, bundle_sha256=bundle_sha256(bundle.root))
    rows = tuple(as_app(m, round=number) for number, m in enumerate(timed_here(work)))
    timed = dataclasses.replace(own, kind="bench", inputs="golden pack, first image", measurements=rows)
    target.mkdir()
    write_record(target / "bundle.phone.verify.json", own)
    write_record(target / "bundle.phone.bench.json", to_bench_set(timed, bundle))
