"""Exports and verifies small networks of torchvision and timm as ``.ptl``, ``.onnx`` and ``.mlpackage``; makes a table.

Run it from the repository's root: ``.venv/bin/python tests/campaigns/networks.py``. Each network of ``networks.txt``
has random weights and its library's own resolution, and goes through ``udacisense export`` and ``udacisense verify``.
``networks.json`` beside this file keeps each answer as it is found: a network that is in it is not run again, and
``--again NAME`` runs one anew. One that has not answered in time, as on a loaded machine, or was ended from outside is
not kept. The table goes into ``docs/networks.md``; ``--table`` writes it and runs nothing.
``--jobs 2`` tries two at once; ``--prefix`` is put before each command, such as ``nice -n 5``.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from udacisense.base.files import write_text
from udacisense.base.records import ModelSpec
from udacisense.measure.counts import count_parameters
from udacisense.models.build import build_model, preset
from udacisense.models.libraries import network_facts

HERE = Path(__file__).parent
RECORD = HERE / "networks.json"
PAGE = HERE.parents[1] / "docs" / "networks.md"
BEGIN, END = "<!-- networks: begin -->", "<!-- networks: end -->"
FORMATS = {"ptl": "lite", "onnx": "onnxruntime", "coreml": "mil"}  # and what answers for each on every host
LIMIT_S = 1800.0
NETWORKS = (HERE / "networks.txt").read_text().split()
Answers = dict[str, dict[str, Any]]


def command(prefix: str, *words: str) -> tuple[int, dict[str, Any] | None, str]:
    """Run ``udacisense``; return its exit code, its JSON, and what else it said last.

    Raises:
        subprocess.TimeoutExpired: it has not answered in time, or was ended from outside.
    """
    program = str(Path(sys.executable).with_name("udacisense"))
    line = [*shlex.split(prefix), program, "-q", *words, "--json"]
    ran = subprocess.run(line, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if ran.returncode < 0:
        raise subprocess.TimeoutExpired(line, LIMIT_S)
    said = (ran.stderr.strip().splitlines() or [""])[-1].removeprefix("error: ")
    return ran.returncode, json.loads(ran.stdout) if ran.stdout.strip() else None, said


def tried(name: str, prefix: str) -> dict[str, Any]:
    """Export and verify one network; return what became of each format."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = f"{folder}/bundle"
        formats = [word for row in FORMATS for word in ("-f", row)]
        code, manifest, said = command(prefix, "export", name, *formats, "--precision", "fp32", "-o", bundle)
        if manifest is None:
            return {"formats": dict.fromkeys(FORMATS, said or f"exit code {code}")}
        rows = {row["id"]: row for row in manifest["variants"]}
        found = {row: rows[f"{row}-fp32"]["reason"] or "exported" for row in FORMATS}
        runners = [word for row in FORMATS.values() for word in ("--runner", row)]
        code, record, said = command(prefix, "verify", bundle, *runners)
        for cell in record["measurements"] if record else ():
            row = cell["spec"]["variant_id"].removesuffix("-fp32")
            if row in found and (cell["outcome"] != "skipped" or found[row] == "exported"):
                found[row] = cell["reason"] or cell["outcome"]
        if record is None:
            found = {row: said if text == "exported" else text for row, text in found.items()}
        return {"formats": found}


def facts(name: str) -> dict[str, Any]:
    spec: ModelSpec = preset(name, num_classes=1000)
    px = network_facts(spec).resolution_px
    return {"parameters": count_parameters(build_model(preset(name, num_classes=1000, size_px=px))), "px": px}


def table(answers: Answers) -> str:
    """Return the record as Markdown."""
    passed = sum(set(row["formats"].values()) == {"passed"} for row in answers.values())
    lines = [
        f"{len(answers)} of the list's {len(NETWORKS)} networks were tried; {passed} passed in all three formats.",
        "",
        "| network | parameters | px | `.ptl` | `.onnx` | `.mlpackage` |",
        "|---|---|---|---|---|---|",
    ]
    for name in sorted(answers):
        row = answers[name]
        first, *others = (text.replace("|", "\\|") for text in row["formats"].values())
        cells = " | ".join([first, *("the same" if text == first != "passed" else text for text in others)])
        lines.append(f"| `{name}` | {row['parameters'] / 1e6:.2f} M | {row['px']} | {cells} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Export and verify small networks of torchvision and timm.")
    parser.add_argument("--most", type=int, default=len(NETWORKS), help="how many to try now")
    parser.add_argument("--again", action="append", default=[], help="network to run anew")
    parser.add_argument("--jobs", type=int, default=1, help="how many to try at once")
    parser.add_argument("--prefix", default="", help="put before each command, e.g. 'nice -n 5'")
    parser.add_argument("--table", action="store_true", help="write the table, run nothing")
    given = parser.parse_args()
    answers: Answers = json.loads(RECORD.read_text()) if RECORD.is_file() else {}
    left = [name for name in NETWORKS if name not in answers or name in given.again]
    with ThreadPoolExecutor(given.jobs) as pool:
        running = {pool.submit(tried, name, given.prefix): name for name in left[: 0 if given.table else given.most]}
        for found in as_completed(running):
            name = running[found]
            try:
                answers[name] = {**facts(name), **found.result()}
            except subprocess.TimeoutExpired:
                sys.stdout.write(f"{name}: no answer within {LIMIT_S:g} s, or ended from outside; not kept\n")
                continue
            write_text(RECORD, json.dumps(answers, indent=1, sort_keys=True) + "\n")
            sys.stdout.write(f"{name}: {answers[name]['formats']}\n")
            sys.stdout.flush()
    text = PAGE.read_text()
    head, rest = text.split(BEGIN)
    write_text(PAGE, f"{head}{BEGIN}\n{table(answers)}\n{END}{rest.split(END)[1]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
