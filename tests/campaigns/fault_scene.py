"""The stage on which ``faults.py`` plays: finished work, commands in forked processes, and how they ended."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fault_extras import add_extras

from exporters.bundle.open import write_zip
from udacisense.cli.main import main
from udacisense.data.shapes import draw_dataset

TRAIN = "train --data {w}/shapes --model tiny --resolution 32 --epochs 3 -o {o}/base"
COMPRESS = "compress --pipeline p2 --baseline {w}/base/artifact --data {w}/shapes --resolution 32 --epochs 2 -o {o}/p2"
EXPORT = "export {w}/base/artifact -f ptl -f onnx --precision fp32 -o {o}/bundle"
VERIFY = "verify {w}/bundle --runner lite --runner onnxruntime -o {o}/bundle.verify.json"
BENCH = "bench {w}/bundle --quick --threads 1 --variant onnx-fp32 -o {o}/bundle.bench.json"
REPORT = "report {w}/base {w}/p2 {w}/bundle {w}/bundle.verify.json {w}/bundle.bench.json -o {o}/report.md"
LINES = {"train": TRAIN, "compress": COMPRESS, "export": EXPORT, "verify": VERIFY, "bench": BENCH, "report": REPORT}


@dataclass(frozen=True)
class Answer:
    """What came of a fault: refused, whole, unrecorded (all right), lost, wrong or rude."""

    verdict: str
    detail: str


@dataclass(frozen=True)
class Scene:
    """Finished, undisturbed work, how long each command took, and a scratch folder."""

    work: Path
    seconds: dict[str, float]

    @classmethod
    def prepare(cls, root: Path) -> Scene:
        """Do the work once, or take what an earlier run of the campaign did."""
        work, times = root / "work", root / "seconds.json"
        if not times.exists():
            shutil.rmtree(root, ignore_errors=True)
            draw_dataset(work / "shapes", train_per_class=4, test_per_class=1, seed=0)
            seconds = {}
            for name, line in LINES.items():
                start = time.monotonic()
                ended = in_child(line.format(w=work, o=work))
                seconds[name] = time.monotonic() - start
                assert ended.code in (0, 1), f"{name}: {ended.told}"
            write_zip(work / "bundle", work / "bundle.zip")
            times.write_text(json.dumps(seconds))
        add_extras(work)
        return cls(work, json.loads(times.read_text()))

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """Give an empty folder that is removed afterwards."""
        folder = self.work.parent / "scratch"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code (negative: the signal) and its standard error."""

    code: int
    told: str


def start_child(line: str, log: Path, *, cwd: Path | None = None, prepare: Callable[[], None] | None = None) -> int:
    """Run a command line in a fork of this process, which has the libraries loaded, and return its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        os.chdir(cwd or "/")
        if prepare is not None:
            prepare()
        main(line.split())
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def wait_child(pid: int, log: Path, *, timeout_s: float = 300.0) -> Ended:
    """Wait for a child; one that hangs is ended, and that is told."""
    deadline = time.monotonic() + timeout_s
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return Ended(os.waitstatus_to_exitcode(status), log.read_text(errors="replace") if log.exists() else "")
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return Ended(99, "Traceback: it hung")
        time.sleep(0.005)


def in_child(line: str, *, prepare: Callable[[], None] | None = None) -> Ended:
    log = Path(f"/tmp/udacisense-fault-{os.getpid()}.log")  # noqa: S108 - apart from disks that are made to fail
    try:
        return wait_child(start_child(line, log, prepare=prepare), log)
    finally:
        log.unlink(missing_ok=True)


def is_rude(ended: Ended) -> bool:
    """A traceback, an exit code that is none of ours, or several errors."""
    errors = [text for text in ended.told.splitlines() if text.startswith("error:")]
    return (
        "Traceback" in ended.told
        or ended.code not in (0, 1, 2, 3, 4, 130, -signal.SIGKILL)
        or (ended.code in (2, 3, 4) and len(errors) != 1)
    )
