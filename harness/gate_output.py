"""A gate's report for people (Markdown) and for continuous integration (JUnit XML)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from harness.gate import GateCheck, GateReport, exit_code
from udacisense.files import write_text
from udacisense.types import Outcome

_TITLES = ((Outcome.FAILED, "Failed"), (Outcome.SKIPPED, "Skipped: not verified here"), (Outcome.PASSED, "Passed"))


def write_junit(report: GateReport, path: Path) -> None:
    """Write JUnit XML: a test suite a variant, a test case a requirement."""
    write_text(path, junit(report))


def junit(report: GateReport) -> str:
    """Return JUnit XML."""
    root = ElementTree.Element("testsuites", name=f"udacisense gate {report.bundle}")
    for variant_id in dict.fromkeys(entry.variant_id for entry in report.checks):
        mine = [entry for entry in report.checks if entry.variant_id == variant_id]
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=variant_id,
            tests=str(len(mine)),
            failures=str(len(_of(mine, Outcome.FAILED))),
            skipped=str(len(_of(mine, Outcome.SKIPPED))),
            errors="0",
        )
        for entry in mine:
            case = ElementTree.SubElement(suite, "testcase", classname=variant_id, name=entry.check.requirement)
            if entry.check.outcome is Outcome.FAILED:
                ElementTree.SubElement(case, "failure", message=_legal(entry.check.reason))
            elif entry.check.outcome is Outcome.SKIPPED:
                ElementTree.SubElement(case, "skipped", message=_legal(entry.check.reason))
            elif entry.check.reason:
                ElementTree.SubElement(case, "system-out").text = _legal(entry.check.reason)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def markdown(report: GateReport) -> str:
    """Return a summary: the verdict, the counts, and a table of each outcome."""
    counts = ", ".join(f"{len(_of(report.checks, outcome))} {outcome}" for outcome, _ in _TITLES)
    verdict = "passed" if exit_code(report) == 0 else "failed"
    lines = [f"# Gate {verdict}: {report.bundle}", "", f"{counts}; verified on {report.inputs}.", ""]
    for outcome, title in _TITLES:
        entries = _of(report.checks, outcome)
        if not entries:
            continue
        lines += [f"## {title} ({len(entries)})", "", "| variant | requirement | measured | limit | why |"]
        lines += ["|---|---|---:|---:|---|"]
        lines += [_line(entry) for entry in entries]
        lines += [""]
    return "\n".join(lines)


def _line(entry: GateCheck) -> str:
    check = entry.check
    measured = "–" if check.measured is None else f"{check.measured:.4g} {check.unit}"
    cells = (entry.variant_id, check.requirement, measured, f"{check.limit:g} {check.unit}", check.reason or "")
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _of(checks: Sequence[GateCheck], outcome: Outcome) -> list[GateCheck]:
    return [entry for entry in checks if entry.check.outcome is outcome]


def _legal(text: str | None) -> str:
    """Drop what XML 1.0 cannot hold: a runtime's message may carry control characters."""
    return "".join(c for c in text or "" if c in "\t\n" or (c >= " " and c not in "\ufffe\uffff"))
