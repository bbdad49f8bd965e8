"""What is lost when things break? At least a thousand faults: damaged files, kills, full and read-only disks, and more.

Run it from the repository's root: ``nice -n 10 .venv/bin/python tests/campaigns/faults.py``. Each fault is a line of
``faults.jsonl``; a run that was interrupted goes on after the last one, and the same seed gives the same faults. At the
end the table is written into ``docs/reliability.md``. It takes about an hour and is no part of the test run.

A fault is *right* where the command refused it with one sentence, or where the work, done again, ended as if nothing
had happened. It is *lost* where something that was reported as kept is gone, *wrong* where a changed file was taken as
whole though its checksum is recorded, and *rude* where the answer was a traceback or more than one error.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fault_kinds import KINDS
from fault_scene import Answer, Scene

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent.parent / "docs" / "reliability.md"
BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault of the plan."""

    kind: str
    number: int

    @property
    def id(self) -> str:
        return f"{self.kind}/{self.number}"


def planned(only: str | None, scale: float) -> Iterator[Fault]:
    """Return every fault, kind by kind, in the table's order."""
    for name, kind in KINDS.items():
        if only is None or name.startswith(only):
            for number in range(max(1, round(kind.count * scale))):
                yield Fault(kind=name, number=number)


def read_done(path: Path) -> dict[str, dict[str, object]]:
    """Return the lines of an earlier run by id; a half-written last line is dropped."""
    done = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            found = json.loads(line)
        except json.JSONDecodeError:
            continue
        done[found["id"]] = found
    return done


def inject(fault: Fault, scene: Scene, seed: int) -> dict[str, object]:
    """Do one fault and describe what came of it."""
    rng = random.Random(f"{seed}/{fault.id}")  # noqa: S311 - faults, not secrets
    start = time.monotonic()
    try:
        answer = KINDS[fault.kind].inject(scene, rng)
    # A campaign counts what it did not foresee and goes on.
    except Exception as exc:
        answer = Answer("unforeseen", f"{type(exc).__name__}: {exc}"[:500])
    return {
        "id": fault.id,
        "kind": fault.kind,
        "verdict": answer.verdict,
        "detail": answer.detail,
        "seconds": round(time.monotonic() - start, 2),
    }


def table(done: dict[str, dict[str, object]]) -> str:
    """Return the figures as a Markdown table."""
    rows = ["| what breaks | faults | right | lost | wrong | rude |", "|---|---|---|---|---|---|"]
    sums: collections.Counter[str] = collections.Counter()
    for name, kind in KINDS.items():
        found = collections.Counter(str(line["verdict"]) for line in done.values() if line["kind"] == name)
        if not found:
            continue
        right = found["refused"] + found["whole"] + found["unrecorded"]
        rude = found["rude"] + found["unforeseen"]
        counts = {"n": found.total(), "right": right, "lost": found["lost"], "wrong": found["wrong"], "rude": rude}
        sums.update(counts)
        rows.append(f"| {kind.title} | " + " | ".join(f"{value:,}" for value in counts.values()) + " |")
    rows.append(
        "| **all** | " + " | ".join(f"**{sums[key]:,}**" for key in ("n", "right", "lost", "wrong", "rude")) + " |"
    )
    unrecorded = sum(line["verdict"] == "unrecorded" for line in done.values())
    rows.append(
        f"\nOf the right ones, {unrecorded:,} changed a file in a way that no recorded checksum covers and that leaves "
        "it valid (a digit of a record, a pixel of a photo): nobody could tell, and it was read as what it now says."
    )
    return "\n".join(rows)


def write_page(text: str) -> None:
    """Put the table into the documentation."""
    page = PAGE.read_text(encoding="utf-8")
    head, rest = page.split(BEGIN)
    PAGE.write_text(f"{head}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Inject faults and count what is lost.")
    parser.add_argument("--out", type=Path, default=HERE / "faults.jsonl")
    parser.add_argument("--work", type=Path, default=Path("/tmp/udacisense-faults"), help="scratch folder")  # noqa: S108
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="kinds that begin so")
    parser.add_argument("--scale", type=float, default=1.0, help="share of each kind's faults")
    parser.add_argument("--table", action="store_true", help="print the table of what is there, and stop")
    given = parser.parse_args()
    done = read_done(given.out)
    say: Callable[[str], object] = sys.stdout.write
    if not given.table:
        os.environ["OMP_NUM_THREADS"] = "1"
        os.environ["UDACISENSE_CACHE"] = str(given.work / "no-runtimes")
        scene = Scene.prepare(given.work)
        with given.out.open("a", encoding="utf-8") as stream:
            for fault in planned(given.only, given.scale):
                if fault.id not in done:
                    done[fault.id] = line = inject(fault, scene, given.seed)
                    stream.write(json.dumps(line) + "\n")
                    stream.flush()
                    if line["verdict"] not in ("refused", "whole", "unrecorded"):
                        say(f"{line['id']}: {line['verdict']}: {line['detail']}\n")
                        sys.stdout.flush()
    text = table(done)
    say(text + "\n")
    if PAGE.exists() and not given.only:
        write_page(text)


if __name__ == "__main__":
    main()
