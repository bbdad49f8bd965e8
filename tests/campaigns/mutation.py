"""Mutation campaign: damaged and faulty bundles, and what ``verify`` says of each.

    python tests/campaigns/mutation.py --out FOLDER [--seed N] [--processes N] [--only TEXT]

Each mutant is tried twice. As a damaged copy its checksums are those of the whole file: it must be refused. As the
work of a faulty exporter its checksums are right, and only its answers and weights can show it: it must be refused,
fail, or be harmless (the same answers, bit by bit). A random flipped bit may also leave answers within the tolerance
of its precision; that is told apart, and for a planted fault it counts as missed. Controls are tried first: undamaged
variants, and each made again without a fault in the way that its mutants are. One that fails is a false alarm, and what
is said of its mutants proves nothing.

Every outcome is written to FOLDER/outcomes.jsonl at once: the same command again goes on where it was stopped, and
with all done writes the tables only. The script ends with 1 where a mutant was missed, took the harness down or
overran its time limit.
"""

# ruff: noqa: T201, S311 - a script speaks on its standard output, and its seed has to repeat

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from mutants import CONTROL, Mutant, all_mutants  # first: it makes the tests' modules importable

from bundle_damage import rehash  # isort: skip
from small_bundle import make_small_bundle  # isort: skip

from exporters.bundle.open import Bundle, check_files, open_bundle
from exporters.formats.contract import ExportOptions
from harness.cell.run import run_cell
from harness.inputs import golden_pack, probe_images
from harness.records import Measurement
from harness.verify.options import VerifyOptions
from harness.verify.plan import Feed, Planner
from harness.verify.run import verify_bundle
from udacisense.base.child import warm_children
from udacisense.base.records import Outcome
from udacisense.errors import UdacisenseError

TIMEOUT_S = 120.0
RUNNERS = ("torchscript", "lite", "onnxruntime", "mil")  # what every host has
ANY_VARIANT = "torchscript-fp32"  # verified for a fault of the bundle itself

FOUND = ("refused", "failed")
MISSED = ("not judged", "missed", "took the harness down")
COLUMNS = (*FOUND, "harmless", "within tolerance", *MISSED)


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant."""

    kind: str
    variant: str | None  # None: the bundle itself
    format: str
    detail: str
    copy_refused: bool
    outcome: str  # one of COLUMNS
    reason: str
    seconds: float  # of its round, shared evenly

    @property
    def name(self) -> str:
        """The mutant's name."""
        return f"{self.kind} | {self.variant or 'bundle'} | {self.detail}"

    @property
    def is_control(self) -> bool:
        """Whether nothing was damaged."""
        return self.kind == CONTROL

    @property
    def is_bad(self) -> bool:
        """Whether it got through. (The manifest has no checksum of its own: what contradicts it refuses it.)"""
        if self.is_control:
            return self.outcome != "passed"
        return self.outcome in MISSED or (not self.copy_refused and self.outcome not in FOUND)


# --- Trials --------------------------------------------------------------------------------------------------------


def rounds(mutants: Sequence[Mutant]) -> list[list[Mutant]]:
    """Group mutants so that no two of a copy touch the same variant; those of the bundle itself stand alone."""
    groups: list[list[Mutant]] = []
    for mutant in mutants:
        taken = (g for g in groups if mutant.touched and all(m.touched and not m.touched & mutant.touched for m in g))
        group = next(taken, None)
        if group is None:
            groups.append([mutant])
        else:
            group.append(mutant)
    return groups


def try_round(
    bundle: Bundle, group: Sequence[Mutant], folder: Path, whole: Callable[[str], np.ndarray], processes: int
) -> list[Verdict]:
    """Plant a group of mutants in one copy and verify it."""
    copy_root = folder / "bundle"
    shutil.copytree(bundle.root, copy_root)
    copy = open_bundle(copy_root)
    for mutant in group:
        mutant.apply(copy)
    refused = check_files(copy)
    rehash(copy_root)
    start = time.monotonic()
    ids = sorted(name for m in group for name in m.touched)
    cells: Sequence[Measurement] = ()
    problem = None
    try:
        cells = verify_bundle(
            open_bundle(copy_root),
            VerifyOptions(variants=ids or [ANY_VARIANT], runners=RUNNERS, processes=processes, timeout_s=TIMEOUT_S),
        ).measurements
    except UdacisenseError as exc:
        problem = str(exc)
    except Exception as exc:  # whatever escapes is what the campaign looks for
        problem = f"HARNESS {type(exc).__name__}: {exc}"
    seconds = (time.monotonic() - start) / len(group)
    verdicts = []
    for mutant in group:
        found = [m for m in cells if m.spec.variant_id == (mutant.variant_id or ANY_VARIANT)]
        outcome, reason = _outcome(mutant, found, problem, copy, whole)
        variant = None if mutant.variant_id is None else copy.variant(mutant.variant_id)
        verdicts.append(
            Verdict(
                kind=mutant.kind,
                variant=mutant.variant_id,
                format="bundle" if variant is None else variant.format,
                detail=mutant.detail,
                copy_refused=any((str(variant.path) if variant else "") in line for line in refused),
                outcome=outcome,
                reason=reason,
                seconds=round(seconds, 2),
            )
        )
    shutil.rmtree(copy_root)
    return verdicts


def _outcome(
    mutant: Mutant,
    cells: Sequence[Measurement],
    problem: str | None,
    copy: Bundle,
    whole: Callable[[str], np.ndarray],
) -> tuple[str, str]:
    if problem is not None:
        return ("took the harness down" if problem.startswith("HARNESS") else "refused"), problem
    failed = [m for m in cells if m.outcome is Outcome.FAILED]
    if mutant.kind == CONTROL:
        return ("false alarm", failed[0].reason or "") if failed else ("passed", "")
    if failed:
        reason = failed[0].reason or ""
        return ("took the harness down" if "time limit" in reason else "failed"), reason
    passed = [m for m in cells if m.outcome is Outcome.PASSED]
    if not passed:
        return "not judged", "; ".join(m.reason or "" for m in cells)  # skipped, which is never passed
    if mutant.variant_id is None or np.array_equal(answers(copy, mutant.variant_id), whole(mutant.variant_id)):
        return "harmless", "the same answers, bit by bit"
    told = passed[0].comparison
    text = "" if told is None or told.max_abs is None else f"max |Δ| {told.max_abs:.3g}, PSNR {told.psnr_db} dB"
    return ("missed" if mutant.is_planted else "within tolerance"), text


def answers(bundle: Bundle, variant_id: str) -> np.ndarray:
    """Run a variant's own cell and return its answers."""
    variant = bundle.variant(variant_id)
    golden = golden_pack(bundle.root, bundle.manifest).inputs
    signature = bundle.manifest.signature
    with tempfile.TemporaryDirectory() as name:
        feed = Feed.write(Path(name), signature, golden, golden, probe_images(signature.size_px), beyond=None)
        options = VerifyOptions(runners=RUNNERS, timeout_s=TIMEOUT_S)
        planner = Planner(bundle=bundle, feed=feed, options=options, cores=1)
        job = next(cell.job for cell in planner.variant(variant) if cell.job is not None)
        cell = run_cell(job)
    assert cell.outputs is not None, cell.result.reason
    return cell.outputs


# --- Report --------------------------------------------------------------------------------------------------------


def table(verdicts: Sequence[Verdict], column: str) -> str:
    """Return the result as Markdown: a row a ``kind`` or a ``format``, and one of all."""
    names = list(dict.fromkeys(getattr(v, column) for v in verdicts))
    lines = [
        f"| {column} | mutants | copy refused | " + " | ".join(COLUMNS) + " |",
        "|---|---:|---:|" + "---:|" * len(COLUMNS),
    ]
    for name in [*names, None]:
        mine = [v for v in verdicts if name is None or getattr(v, column) == name]
        counts = Counter(v.outcome for v in mine)
        row = [name or "**all**", str(len(mine)), str(sum(v.copy_refused for v in mine))]
        lines.append("| " + " | ".join([*row, *(str(counts[c]) for c in COLUMNS)]) + " |")
    return "\n".join(lines)


def line(verdict: Verdict) -> str:
    """Return a verdict in a line."""
    return f"- {verdict.name}: {verdict.outcome}: {verdict.reason}"


def summary(verdicts: Sequence[Verdict]) -> str:
    """Return ``mutation.md``."""
    bad = [line(v) for v in verdicts if v.is_bad]
    controls = [v for v in verdicts if v.is_control]
    seconds = sum(v.seconds for v in verdicts)
    verdicts = [v for v in verdicts if not v.is_control]
    intact = f"{sum(not v.is_bad for v in controls)} of {len(controls)} controls pass"
    by_outcome = f"{intact}; {len(verdicts)} mutants; {seconds:.0f} s of verification"
    host = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, {os.cpu_count()} cores"
    day = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    parts = [f"{by_outcome}; {host}; {day}.", table(verdicts, "kind"), table(verdicts, "format")]
    return "\n\n".join([*parts, "\n".join(bad) if bad else "None got through."]) + "\n"


def read_outcomes(path: Path) -> list[Verdict]:
    """Return what was tried before."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [Verdict(**json.loads(row)) for row in text.splitlines()]


def whole_bundle(folder: Path) -> Bundle:
    """Return the bundle that all mutants are made of, made once and kept."""
    if not (folder / "bundle" / "manifest.json").is_file():
        make_small_bundle(folder, ExportOptions(engines=("qnnpack",), calibration=64))
    return open_bundle(folder / "bundle")


def main() -> int:
    """Run the campaign, or the rest of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for outcomes.jsonl, mutation.md, the bundle")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="only mutants whose kind, variant or detail holds this text")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with warm_children("harness.cell.worker", "harness.verify.inside.worker", "onnxruntime", "coremltools"):
        return campaign(arguments)


def campaign(arguments: argparse.Namespace) -> int:
    """Try what is left of the mutants; 1 where one got through."""
    log = arguments.out / "outcomes.jsonl"
    bundle = whole_bundle(arguments.out / "whole")
    verdicts = read_outcomes(log)
    done = {v.name for v in verdicts}
    mutants = all_mutants(bundle, random.Random(arguments.seed))
    left = [m for m in mutants if arguments.only in m.name and m.name not in done]
    print(f"{len(mutants)} mutants and controls of {len(bundle.exported())} variants, {len(left)} to be tried")
    kept: dict[str, np.ndarray] = {}

    def whole(variant_id: str) -> np.ndarray:
        if variant_id not in kept:
            kept[variant_id] = answers(bundle, variant_id)
        return kept[variant_id]

    groups = rounds(left)
    for number, group in enumerate(groups, 1):
        with tempfile.TemporaryDirectory(prefix="udacisense-mutation-") as name:
            tried = try_round(bundle, group, Path(name), whole, arguments.processes)
        verdicts += tried
        with log.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(v), ensure_ascii=False) + "\n" for v in tried)
        print("\n".join([line(v) for v in tried if v.is_bad] + [f"round {number} of {len(groups)}"]), flush=True)
    text = summary(verdicts)
    print(text)
    (arguments.out / "mutation.md").write_text(text, encoding="utf-8")
    return 1 if any(v.is_bad for v in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
