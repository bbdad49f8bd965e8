"""A gate's report for people (Markdown) and for continuous integration (JUnit XML)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

from harness.gate.run import GateCheck, GateReport, exit_code
from harness.report.table import Table, markdown_cell, markdown_table, visible
from udacisense.base.records import Outcome

COLUMNS = ("variant", "requirement", "outcome", "measured", "limit", "why")
_TITLES = ((Outcome.FAILED, "Failed"), (Outcome.SKIPPED, "Skipped: not verified here"), (Outcome.PASSED, "Passed"))


def junit(report: GateReport) -> str:
    """Return JUnit XML: a test suite a variant, a test case a requirement."""
    root = ElementTree.Element("testsuites", name=_legal(f"udacisense gate {report.bundle}"))
    for variant_id in dict.fromkeys(entry.variant_id for entry in report.checks):
        mine = [entry for entry in report.checks if entry.variant_id == variant_id]
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=_legal(variant_id),
            tests=str(len(mine)),
            failures=str(len(_of(mine, Outcome.FAILED))),
            skipped=str(len(_of(mine, Outcome.SKIPPED))),
            errors="0",
        )
        for entry in mine:
            case = ElementTree.SubElement(
                suite, "testcase", classname=_legal(variant_id), name=_legal(entry.check.requirement)
            )
            if entry.check.outcome is Outcome.FAILED:
                ElementTree.SubElement(case, "failure", message=_legal(entry.check.reason))
            elif entry.check.outcome is Outcome.SKIPPED:
                ElementTree.SubElement(case, "skipped", message=_legal(entry.check.reason))
            elif entry.check.reason:
                ElementTree.SubElement(case, "system-out").text = _legal(entry.check.reason)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def markdown(report: GateReport) -> str:
    """Return a summary: the verdict, the counts, and a table of each outcome; what a record names stays text."""
    verdict = "passed" if exit_code(report) == 0 else "failed"
    name, inputs = markdown_cell(report.bundle), markdown_cell(report.inputs)
    made = f"# Gate {verdict}: {name}\n\n{_counts(report)}; verified on {inputs}.\n"
    for outcome, title in _TITLES:
        if entries := _of(report.checks, outcome):
            made += f"\n## {title} ({len(entries)})\n\n{markdown_table(checks_table(entries, title=title))}\n"
    return made


def checks_table(checks: Sequence[GateCheck], *, title: str = "Requirements") -> Table:
    """One row a requirement of a variant: outcome, measured, limit, why."""
    rows = []
    for entry in checks:
        check = entry.check
        measured = None if check.measured is None else f"{check.measured:.4g} {check.unit}"
        limit = f"{check.limit:g} {check.unit}"
        rows.append((entry.variant_id, check.requirement, str(check.outcome), measured, limit, check.reason))
    return Table(title=title, columns=COLUMNS, rows=tuple(rows))


def open_checks_table(path: Path, gate: GateReport) -> Table:
    """One row a requirement that failed or could not be checked, failed ones first; the rest is counted."""
    shown = [entry for outcome in (Outcome.FAILED, Outcome.SKIPPED) for entry in _of(gate.checks, outcome)]
    table = checks_table(shown, title=f"Gate of {gate.bundle} ({path.name})")
    return replace(table, notes=(f"{_counts(gate)}.",))


def _counts(report: GateReport) -> str:
    return ", ".join(f"{len(_of(report.checks, outcome))} {outcome}" for outcome, _ in _TITLES)


def _of(checks: Sequence[GateCheck], outcome: Outcome) -> list[GateCheck]:
    return [entry for entry in checks if entry.check.outcome is outcome]


def _legal(text: str | None) -> str:
    """Return text that XML 1.0 can hold: a runtime's message may carry control characters, which are spelt out."""
    return "".join(c for c in visible(text or "") if c not in "\ufffe\uffff")
