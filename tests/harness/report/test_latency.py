"""The chapter of times, in HTML, Markdown and JSON alike: what the records hold beside the times is not left out."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from html_page import Page
from report_records import write_records

from harness.records import BenchSet, HostState
from harness.report.collect import collect
from harness.report.html import to_html
from harness.report.markdown import to_json_text, to_markdown
from udacisense.base.records import read_json, write_record


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_records(tmp_path_factory.mktemp("records"))


@pytest.fixture(scope="module")
def page(records: Path) -> Page:
    return Page(to_html(collect([records]), title="T"))


def test_arm_instructions_that_disagree_with_the_times_are_told(records: Path, page: Page) -> None:
    where, counts = "small in any runner on 1 thread: this host's", "(50.0 M against 80.0 M)"
    told = f"{where} times prefer {{}}, and ARM instructions {{}} {counts}"
    names = ("onnx-fp32", "ptl-int8-dynamic-qnnpack")
    assert told.format(*names) in page.text
    text = to_markdown(collect([records]), title="T")
    assert f"\n- {told.format(*(f'`{name}`' for name in names))}" in text
    assert "| small | onnx-fp32 | 80.00 M |" in text
    host, phone = json.loads(to_json_text(collect([records]), title="T"))["latencies"]
    assert [line.split(":")[0] for line in host["disagreements"]] == ["small in any runner on 1 thread"]
    assert [row["instructions_per_call"] for row in host["instructions"]] == [80e6, 50e6]
    assert (phone["disagreements"], phone["instructions"]) == ([], []), "a phone counted none"
    assert "ARM instructions against" not in page.text.partition("Measured on Phone SoC")[2]


def test_what_changed_on_the_machine_while_it_measured_is_shown(records: Path, page: Page) -> None:
    assert page.row("load average") == ["load average", "0.50", "0.75"]
    assert page.row("frequency") == ["frequency", "2340 to 2400 MHz", "2240 to 2300 MHz"]
    assert "Not shown by this host: temperature." in page.text
    assert page.row("thermal status, 0 (none) to 6")[1:] == ["0", "2", "1"]
    assert page.row("battery")[1:] == ["80 %", "–", "79 %"]
    text = to_markdown(collect([records]), title="T")
    assert "| frequency | 2340 to 2400 MHz | 2240 to 2300 MHz |" in text
    host, phone = json.loads(to_json_text(collect([records]), title="T"))["latencies"]
    assert host["states"]["frequency_mhz"] == {"before": [2340.0, 2400.0], "after": [2240.0, 2300.0]}
    assert "temperature_c" not in host["states"]
    assert phone["states"]["thermal"] == {"before": [0, 0], "during": [2, 2], "after": [1, 1]}


def test_a_machine_that_shows_nothing_of_itself_is_said_in_a_sentence(records: Path, tmp_path: Path) -> None:
    made = read_json(BenchSet, records / "host.bench.json")
    hidden = HostState(load_average=None, frequency_mhz=None, temperature_c=None)
    runs = tuple(dataclasses.replace(run, before=hidden, after=hidden) for run in made.runs)
    write_record(tmp_path / "host.bench.json", dataclasses.replace(made, runs=runs))
    evidence = collect([tmp_path])
    for text in (to_html(evidence, title="T"), to_markdown(evidence, title="T")):
        assert "this host showed no load, frequency or temperature" in text
        assert "before and after each process" not in text
    assert json.loads(to_json_text(evidence, title="T"))["latencies"][0]["states"] == {}


def test_columns_without_any_figure_are_left_out_and_named(page: Page) -> None:
    assert page.row("cell", "median", "overhead floor")[3:] == [
        "of the roofline",
        "between processes",
        "against the best",
    ]
    assert "Without a figure here: ARM instructions." in page.text


def test_what_is_in_doubt_is_told_everywhere(records: Path, tmp_path: Path) -> None:
    made = read_json(BenchSet, records / "host.bench.json")
    told = "torchscript-cuda: skipped: no CUDA device"
    write_record(tmp_path / "host.bench.json", dataclasses.replace(made, notes=(told,)))
    evidence = collect([tmp_path])
    assert Page(to_html(evidence, title="T")).row("not measured, or in doubt", told)
    assert f"| not measured, or in doubt | {told} |" in to_markdown(evidence, title="T")
    assert told in json.loads(to_json_text(evidence, title="T"))["latencies"][0]["notes"]
