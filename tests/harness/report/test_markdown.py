"""The Markdown report is read as Markdown: what a record names stays text, and what is ours stays markup."""

from __future__ import annotations

import dataclasses
import json
import resource
import shutil
from pathlib import Path

import pytest
from markdown_page import NAMES, assert_only_text, inlines, parsed, plain, shape, shown
from report_records import write_records

from exporters.bundle.manifest import Manifest
from exporters.bundle.open import bundle_sha256
from harness.report.collect import collect
from harness.report.markdown import to_markdown
from harness.report.table import Table, markdown_cell
from harness.report.techniques import as_markdown, techniques_table
from udacisense.cli.main import run

PLACES = {"bundle": "small", "variant": "onnx-fp32", "label": "clock", "host": "Phone SoC", "stage": "distil"}


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_records(tmp_path_factory.mktemp("records"))


def renamed(records: Path, folder: Path, name: str, *, places: tuple[str, ...] = tuple(PLACES)) -> Path:
    """Return a copy of the records, with another name in some places."""
    shutil.copytree(records, folder, dirs_exist_ok=True)  # the images that a bundle's flips are shown by, too
    for file in records.rglob("*.json"):
        text = file.read_text(encoding="utf-8")
        for place in places:
            text = text.replace(f'"{PLACES[place]}', f'"{json.dumps(name)[1:-1]}')
            text = text.replace(f"/{PLACES[place]} ", f"/{json.dumps(name)[1:-1]} ")  # of a cell's id
        (folder / file.relative_to(records)).write_text(text, encoding="utf-8")
    for manifest in records.rglob(Manifest.FILE_NAME):  # a bundle's records know it by its manifest's bytes
        known, now = (bundle_sha256(root / manifest.parent.relative_to(records)) for root in (records, folder))
        for copy in folder.rglob("*.json"):
            if copy.name != Manifest.FILE_NAME:
                copy.write_text(copy.read_text(encoding="utf-8").replace(known, now), encoding="utf-8")
    return folder


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_name_is_no_markup(records: Path, tmp_path: Path, name: str, place: str) -> None:
    tokens = parsed(to_markdown(collect([renamed(records, tmp_path, name, places=(place,))]), title=name))
    assert_only_text(tokens)
    assert plain(shown(tokens)).count(plain(name)) > 1, "it is shown as it is, and not in the title alone"


@pytest.mark.parametrize("name", [name for name in NAMES if "\n" not in name])
def test_a_hostile_name_moves_nothing(records: Path, tmp_path: Path, name: str) -> None:
    ours = shape(parsed(to_markdown(collect([records]), title="T")))
    assert shape(parsed(to_markdown(collect([renamed(records, tmp_path, name)]), title=name))) == ours


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_name_is_no_markup_on_the_page_of_techniques(records: Path, name: str) -> None:
    (_, found), *_ = collect([records]).techniques
    row = found.results[0]
    packed = dataclasses.replace(row.figures, config={"gzip_bytes": 1})
    row = dataclasses.replace(row, name=name, figures=packed)
    table = techniques_table(dataclasses.replace(found, results=(row,)))
    tokens = parsed(as_markdown(dataclasses.replace(table, title=f"Of {name}")))
    assert_only_text(tokens, own=("strong",))
    assert [child.type for child in inlines(tokens)].count("strong_open") == 1, "the title alone is bold"
    assert plain(shown(tokens)).count(plain(name)) >= 3, "title, row and note"
    assert shape(tokens) == shape(parsed(as_markdown(dataclasses.replace(table, title="T"))))


def test_direction_marks_are_spelt_out_on_the_page_of_techniques() -> None:
    text = as_markdown(Table(title="a\u202eb", columns=("c\u200f",), rows=(("d\u2066",),), notes=("e\u061c",)))
    assert text == "**a⟨U+202E⟩b**\n\n| c⟨U+200F⟩ |\n| --- |\n| d⟨U+2066⟩ |\n\n- e⟨U+061C⟩\n"


def test_our_own_markup_stays(records: Path) -> None:
    text = to_markdown(collect([records]), title="T")
    assert "The runner `mil` computes" in text
    assert "\n- small: `onnx-fp32` on onnxruntime" in text
    assert "| -50.0 % |" in text
    assert "| small/ptl-int8-dynamic-qnnpack@qnnpack t1 |" in text, "an engine is nobody's name"
    assert markdown_cell("`make browser` of x86_64, see harness/report_x") == (
        "`make browser` of x86_64, see harness/report_x"
    )
    assert markdown_cell(None) == "-"
    assert markdown_cell("---") == "---", "a table's rule is made of cells, too"


def test_the_page_and_its_figures_are_both_written_or_neither(
    records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["report", str(records), "-o", str(tmp_path / "r.md")]
    assert run(line) == 0
    page, figures = tmp_path / "r.md", tmp_path / "r.json"
    assert page.stat().st_size < figures.stat().st_size
    page.write_text("old")
    figures.write_text("old")
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (page.stat().st_size + 20_000, hard))
    try:
        assert run(line) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "r.json: File too large" in capsys.readouterr().err
    assert (page.read_text(), figures.read_text()) == ("old", "old")
    assert {path.name for path in tmp_path.iterdir()} == {"r.md", "r.json"}, "nothing is left behind"


def test_a_report_does_not_take_the_place_of_a_record(
    records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = shutil.copy(next(records.rglob("*bench.json")), tmp_path / "one.bench.json")
    before = record.read_bytes()
    assert run(["report", str(record), "-o", str(tmp_path / "one.bench.md")]) == 2
    assert "would take the place of the record" in capsys.readouterr().err
    assert record.read_bytes() == before
    assert not (tmp_path / "one.bench.md").exists()
