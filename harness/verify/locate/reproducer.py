"""A folder that shows one fault: inputs, expected, got, the file, and a script that shows it.

Names out of a bundle or a file may be anything, code too: they are written as data, and the script is always the same.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from exporters.bundle.manifest import Loadable
from exporters.formats.contract import SUFFIXES
from harness.verify.locate import reproduce
from harness.verify.locate.job import Found
from harness.verify.locate.rungs import STEPS
from udacisense.base.files import atomic_path, write_text
from udacisense.base.records import to_json
from udacisense.errors import InputError


def write_reproducer(out: Path, work: Path, found: Found, variant: Loadable, path: Path) -> None:
    """Write the folder.

    Args:
        out: new, or empty.
        work: where the worker left ``inputs.npy`` and, unless it crashed, ``expected.npy`` and ``got.npy``.
        found: what was found.
        variant: the one that broke.
        path: of its file.

    Raises:
        InputError: ``out`` holds something.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not empty; give a new folder for the reproducer.")
    is_file = found.rung not in STEPS
    # A name of our own: Python would import a file beside the script that is called like a module.
    name = "model" + SUFFIXES[variant.format] if is_file else "rung.pt"
    case = {
        "variant": variant.id,
        "reason": found.reason,
        "format": variant.format if is_file else "torchscript",
        "file": name,
        "engine": variant.engine,
        "batch": (variant.batch or 1) if is_file else 1,
    }
    with atomic_path(out) as partial:
        partial.mkdir()
        inputs = np.load(work / "inputs.npy", allow_pickle=False)
        np.save(partial / "inputs.npy", inputs[list(found.worst_inputs)])
        for kept in ("expected.npy", "got.npy", "rung.pt"):
            if (work / kept).exists():
                shutil.copy(work / kept, partial / kept)
        if is_file:
            (shutil.copytree if path.is_dir() else shutil.copy)(path, partial / name)
        write_text(partial / Found.FILE_NAME, to_json(found))
        write_text(partial / "reproduce.json", json.dumps(case, indent=2) + "\n")
        shutil.copy(str(reproduce.__file__), partial / "reproduce.py")
