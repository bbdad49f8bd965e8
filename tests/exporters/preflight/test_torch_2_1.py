"""The real proof of the preflight: our ``.ptl`` files in torch 2.1.0, whose lite interpreter is the code of the last
Android and iOS libraries. Its environment is made once and kept in the tests' own cache."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from tests_cache import CACHE

from exporters.preflight.run import LITE_RUNTIMES, preflight
from udacisense.base.files import atomic_path
from udacisense.base.records import Outcome
from udacisense.errors import UdacisenseError

pytestmark = pytest.mark.runtime

VERSION = "2.1.0"
PTL = (
    "model-ptl-fp32.ptl",
    "model-ptl-fp32-xnnpack.ptl",
    "model-ptl-int8-dynamic-qnnpack.ptl",
    "model-ptl-int8-static-qnnpack.ptl",
)
# Runs in the old environment: prints the answers as raw little-endian float32.
SCRIPT = """
import sys
import numpy as np
import torch
from torch.jit.mobile import _load_for_lite_interpreter
path, inputs, engine, edge = sys.argv[1:]
if engine != "none":
    torch.backends.quantized.engine = engine
torch.set_num_threads(1)
batch = torch.from_numpy(np.fromfile(inputs, "<f4").reshape(-1, 3, int(edge), int(edge)))
model = _load_for_lite_interpreter(path)
with torch.no_grad():
    answers = torch.cat([model(image) for image in batch.split(1)])
sys.stdout.buffer.write(answers.numpy().astype("<f4").tobytes())
"""


@pytest.fixture(scope="module")
def old_python() -> Path:
    """The interpreter of an environment with torch 2.1.0; skipped, with its reason, where it cannot be made."""
    if not (3, 8) <= sys.version_info[:2] <= (3, 11):
        pytest.skip(f"torch {VERSION} has no wheel for Python {sys.version_info[0]}.{sys.version_info[1]}")
    folder = CACHE / f"runtime-torch-{VERSION}"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        try:
            with atomic_path(folder) as partial:
                venv.create(partial, with_pip=True)
                install = ["-m", "pip", "install", "--quiet", f"torch=={VERSION}", "numpy<2"]
                done = subprocess.run(
                    [str(partial / "bin" / "python"), *install],
                    capture_output=True,
                    text=True,
                    check=False,
                    timeout=1800,
                )
                if done.returncode != 0:
                    last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
                    pytest.skip(f"torch {VERSION} could not be installed: {last}")
                (partial / "ready").touch()
        except (OSError, subprocess.SubprocessError, UdacisenseError) as exc:
            pytest.skip(f"an environment with torch {VERSION} could not be made: {exc}")
    return python


@pytest.mark.parametrize("name", PTL)
def test_the_old_lite_interpreter_answers_the_same(exported, old_python: Path, name: str) -> None:
    bundle = exported.bundle
    path = bundle.root / name
    assert VERSION in LITE_RUNTIMES
    assert preflight(path, runtime=VERSION).verdict is Outcome.PASSED
    variant = bundle.variant(name.removeprefix("model-").removesuffix(".ptl"))
    inputs = bundle.path(bundle.manifest.golden.inputs_path)
    arguments = [str(path), str(inputs), variant.engine or "none", str(bundle.manifest.signature.size_px)]
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(old_python), "-c", SCRIPT, *arguments], capture_output=True, check=False, timeout=120, env=env
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    answers = np.frombuffer(done.stdout, "<f4").reshape(len(bundle.manifest.golden.images), -1)
    expected = bundle.golden_logits(variant)
    # An int8 activation on a rounding border may fall to the other side with other float32 kernels before it.
    limit = 1e-4 if variant.engine is None else 5e-2
    assert np.abs(answers - expected).max() < limit * np.abs(expected).max()
    assert (answers.argmax(1) == expected.argmax(1)).mean() > 0.9
    assert np.abs(expected).max() > 1
