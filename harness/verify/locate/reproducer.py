"""A folder that shows one fault: inputs, expected, got, the file, and a script that shows it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from exporters.bundle.manifest import Variant
from harness.verify.locate.job import Found
from harness.verify.locate.rungs import SHIPPED
from udacisense.base.files import atomic_path, write_text
from udacisense.base.records import to_json
from udacisense.errors import InputError

_LOAD = {
    "torchscript": "import torch\nmodel = torch.jit.load('{file}')\n"
    "got = np.concatenate([model(torch.from_numpy(x[None])).detach().numpy() for x in inputs])",
    "ptl": "import torch\nfrom torch.jit.mobile import _load_for_lite_interpreter\n"
    "model = _load_for_lite_interpreter('{file}')\n"
    "got = np.concatenate([model(torch.from_numpy(x[None])).detach().numpy() for x in inputs])",
    "onnx": "import onnxruntime as ort\nmodel = ort.InferenceSession('{file}', providers=['CPUExecutionProvider'])\n"
    "name = model.get_inputs()[0].name\n"
    "got = np.concatenate([model.run(None, {{name: x[None]}})[0] for x in inputs])",
    "coreml": "import torch\nfrom pathlib import Path\nfrom harness.runners.mil.program import read_program\n"
    "model = read_program(Path('{file}'))\n"
    "got = np.concatenate([model.evaluate(torch.from_numpy(x[None])).numpy() for x in inputs])",
}
_LOAD["ort"] = _LOAD["onnx"]


def write_reproducer(out: Path, work: Path, found: Found, variant: Variant, path: Path) -> None:
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
    is_file = found.rung is not None and found.rung.startswith(SHIPPED)
    name = path.name if is_file else "rung.pt"
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
        write_text(partial / "reproduce.py", _script(found, variant, name, is_file=is_file))


def _script(found: Found, variant: Variant, name: str, *, is_file: bool) -> str:
    load = _LOAD.get(variant.format if is_file else "torchscript", "raise SystemExit('no script for this format')")
    engine = f"import torch\ntorch.backends.quantized.engine = '{variant.engine}'\n" if variant.engine else ""
    return (
        f'"""{variant.id}: {found.reason}"""\n'.replace("\\", "/")
        + "import os\nimport numpy as np\nos.chdir(os.path.dirname(os.path.abspath(__file__)))\n"
        + f"{engine}inputs = np.load('inputs.npy')\n{load.format(file=name)}\n"
        + "expected = np.load('expected.npy')\n"
        + "print('max |difference| an image:', np.abs(got - expected).max(axis=1))\n"
        + "print('top-1 expected:', expected.argmax(axis=1), 'got:', got.argmax(axis=1))\n"
    )
