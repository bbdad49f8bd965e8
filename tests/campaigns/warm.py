"""Cells as forks of one process that has its libraries loaded: of a cell's five seconds, four go into loading them.

Each is still a process of its own, ended at its time limit, whose signal or exit code is what the parent learns.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import traceback
import warnings
from pathlib import Path

import harness.cell.run
import harness.verify.inside.weights

_LOADED = (
    "__main__",
    "torch",
    "onnxruntime",
    "onnx",
    "coremltools",
    "harness.cell.worker",
    "harness.runners.mil.program",
)
_FORKS = multiprocessing.get_context("forkserver")
_AFRESH = harness.cell.run.run_child  # as the product starts them


def fork_cells() -> None:
    """Start the harness's processes this way from now on."""
    _FORKS.set_forkserver_preload(list(_LOADED))
    harness.cell.run.run_child = run_child  # type: ignore[assignment]
    harness.verify.inside.weights.run_child = run_child  # type: ignore[assignment]


def run_child(
    module: str, folder: Path, *, timeout_s: float, threads: int = 1, shares_cores: bool = True
) -> str | None:
    """Do what :func:`harness.cell.run.run_child` does, in a fork."""
    # OpenMP reads its settings once, when the campaign starts.
    process = _FORKS.Process(target=_work, args=(module, str(folder)))
    process.start()
    process.join(timeout_s)
    if process.is_alive():
        process.kill()
        process.join()
        # A fork may have inherited a lock whose holder was not copied: what hangs is tried again as users have it.
        return _AFRESH(module, folder, threads=threads, timeout_s=timeout_s, shares_cores=shares_cores)
    code = process.exitcode or 0
    if code == 0 and (folder / "result.json").exists():
        return None
    cause = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
    lines = [text for text in (folder / "log.txt").read_text(errors="replace").splitlines() if text.strip()]
    return f"the process ended with {cause}" + (f"; its last line: {lines[-1][:300]}" if lines else "")


def _work(module: str, folder: str) -> None:
    log = os.open(Path(folder) / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    warnings.simplefilter("ignore")
    try:
        importlib.import_module(module).main(Path(folder))
    except BaseException:  # as an interpreter would: told, and an exit code
        traceback.print_exc()
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os._exit(1)
    os._exit(0)
