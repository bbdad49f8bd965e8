"""What the report says to ship: nothing that failed, crashed or lost accuracy, and nothing unverified in silence."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from bench_records import run_of
from html_page import Page
from report_records import comparison, write_records

from harness.records import BenchSet, MeasurementSet
from harness.report.collect import collect
from harness.report.html import to_html
from udacisense.base.records import Outcome, read_json, write_record

ANDROID, SERVER = "Android app, PyTorch Mobile", "server or desktop"


def changed(folder: Path, variant_id: str, **changes: object) -> Path:
    """Return the folder of records, in which verification says otherwise of a variant."""
    path = folder / "p1" / "bundle.verify.json"
    made = read_json(MeasurementSet, path)
    cells = [
        dataclasses.replace(m, **changes) if m.spec.variant_id == variant_id else m  # type: ignore[arg-type]
        for m in made.measurements
    ]
    write_record(path, dataclasses.replace(made, measurements=tuple(cells)))
    return folder


def page_of(folder: Path) -> Page:
    return Page(to_html(collect([folder]), title="T"))


def shipped(folder: Path, platform: str) -> list[str]:
    """Return what this machine's sweep recommends for a platform."""
    (folder / "phone.bench.json").unlink(missing_ok=True)
    return page_of(folder).row("small", platform)


def test_what_failed_verification_is_not_shipped_and_that_is_said(tmp_path: Path) -> None:
    folder = changed(write_records(tmp_path), "ptl-int8-dynamic-qnnpack", outcome=Outcome.FAILED, reason="it broke")
    assert shipped(folder, ANDROID)[2:] == [
        *("–",) * 4,
        "no file can be recommended: ptl-int8-dynamic-qnnpack: failed verification",
    ]
    assert shipped(folder, SERVER)[2] == "onnx-fp32", "nothing speaks against the other file"


def test_what_lost_accuracy_is_not_shipped_and_that_is_said(tmp_path: Path) -> None:
    lost = dataclasses.replace(comparison((), ()), top1_fraction=0.69, reference_top1_fraction=0.75)
    folder = changed(write_records(tmp_path), "ptl-int8-dynamic-qnnpack", comparison=lost)
    assert shipped(folder, ANDROID)[6] == (
        "no file can be recommended: ptl-int8-dynamic-qnnpack: lost 6.0 points of top-1 on 4 images"
    )


@pytest.mark.parametrize(
    ("threads", "ship", "words"),
    [
        ((1, 2), "–", "no file can be recommended: onnx-fp32: failed in a round: signal 11 (SIGSEGV)"),
        ((1,), "onnx-fp32", "in another setting: failed in a round: signal 11 (SIGSEGV)"),
    ],
)
def test_what_crashed_is_not_shipped_in_silence(
    tmp_path: Path, threads: tuple[int, ...], ship: str, words: str
) -> None:
    folder = write_records(tmp_path)
    made = read_json(BenchSet, folder / "host.bench.json")
    cells = [c for c in made.cells if c.variant_id == "onnx-fp32" and c.threads in threads]
    crashed = tuple(run_of(cell, 98, None) for cell in cells)
    write_record(folder / "host.bench.json", dataclasses.replace(made, runs=(*made.runs, *crashed)))
    row = shipped(folder, SERVER)
    assert row[2] == ship, "the bundle holds no other file for it"
    assert words in row[6]


def test_what_nobody_verified_is_shipped_with_that_word(tmp_path: Path) -> None:
    folder = write_records(tmp_path)
    (folder / "p1" / "bundle.verify.json").unlink()
    for platform, variant in ((ANDROID, "ptl-int8-dynamic-qnnpack"), ("iOS app, Core ML", "coreml-fp32")):
        row = shipped(folder, platform)
        assert row[2] == variant
        assert row[6].startswith("NOT VERIFIED, ")
    assert "NOT VERIFIED: run udacisense verify before shipping the file." in page_of(folder).text
