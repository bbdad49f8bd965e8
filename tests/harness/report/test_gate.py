"""What CI and a reader see of the gate's answer."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from gate_records import gated, gated_source, verified
from markdown_page import NAMES, assert_only_text, parsed, plain, shape, shown

from harness.bench.cells import Source
from harness.gate.run import GateReport
from harness.report.gate import junit, markdown
from harness.report.table import visible
from udacisense.base.records import Outcome


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return gated_source(tmp_path / "bundle")


def test_junit_counts_what_failed_and_what_was_skipped(source: Source) -> None:
    record = verified(source, int8=Outcome.FAILED)
    broken = dataclasses.replace(record.measurements[1], reason='signal 11 \x00<"&>')
    record = dataclasses.replace(record, measurements=(record.measurements[0], broken, *record.measurements[2:]))
    root = ElementTree.fromstring(junit(gated(source, verification=record)))  # noqa: S314 - our own text
    suites = {suite.get("name"): suite for suite in root}
    assert set(suites) == {"torchscript-fp32", "ptl-int8", "coreml-fp32", "executorch-fp32"}
    (failure,) = suites["ptl-int8"].findall("testcase/failure")
    assert failure.get("message") == 'lite: signal 11 ⟨U+0000⟩<"&>'
    assert suites["ptl-int8"].get("failures") == "1"
    assert suites["coreml-fp32"].get("skipped") == "2"
    assert suites["torchscript-fp32"].findall("testcase/failure") == []


def test_markdown_shows_skipped_apart_from_passed(source: Source) -> None:
    text = markdown(gated(source, verification=verified(source, int8=Outcome.FAILED)))
    assert text.startswith("# Gate failed: ")
    failed, rest = text.split("## Skipped: not verified here")
    skipped, passed = rest.split("## Passed")
    assert "it broke" in failed
    assert "needs macOS" in skipped
    assert "coreml-fp32" not in passed


def named(report: GateReport, name: str) -> GateReport:
    """Return the report with another name of the bundle, the images, every variant, requirement and reason."""
    checks = tuple(
        dataclasses.replace(
            entry, variant_id=name, check=dataclasses.replace(entry.check, requirement=name, reason=name, unit="%")
        )
        for entry in report.checks
    )
    return dataclasses.replace(report, bundle=name, inputs=name, checks=checks)


@pytest.mark.parametrize("name", [*NAMES, "abc\u202egnp.exe\u200f"])
def test_a_hostile_name_is_no_markup_in_the_summary(source: Source, name: str) -> None:
    report = gated(source, verification=verified(source, int8=Outcome.FAILED))
    text = markdown(named(report, name))
    tokens = parsed(text)
    assert_only_text(tokens)
    assert not re.search("[\u200e\u200f\u202a-\u202e\u2066-\u2069]", text), "a direction mark got through"
    assert shape(tokens) == shape(parsed(markdown(named(report, "T"))))
    assert plain(shown(tokens)).count(plain(visible(name))) >= 2 + 3 * len(report.checks), "it is shown as it is"


def test_a_hostile_name_stays_within_its_attribute_of_junit(source: Source) -> None:
    name = '"><x> \x01\u202e\uffff&'
    root = ElementTree.fromstring(junit(named(gated(source), name)))  # noqa: S314 - our own text
    assert {element.tag for element in root.iter()} == {"testsuites", "testsuite", "testcase", "skipped", "system-out"}
    shown_as = '"><x> ⟨U+0001⟩⟨U+202E⟩&'
    assert root.get("name") == f"udacisense gate {shown_as}"
    assert {suite.get("name") for suite in root} == {shown_as}
