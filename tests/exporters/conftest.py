"""One small network with real activations, exported once into every format."""

from __future__ import annotations

import itertools
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from exporters.bundle.open import Bundle, open_bundle
from exporters.export import export_bundle
from exporters.formats.contract import ExportOptions
from exporters.source import ExportSource, drawn_images, make_source
from udacisense.data.batches import normalise
from udacisense.data.images import HOUSEHOLD_CLASSES, DataSet, Images, make_signature
from udacisense.models.build import build_model, preset


@dataclass(frozen=True)
class Exported:
    source: ExportSource
    bundle: Bundle


def drawn_dataset() -> DataSet:
    """A data set of drawn pictures with made-up labels: the exporters look at pixels and shapes alone."""
    pixels = drawn_images(40, 32).pixels
    images = Images(pixels, torch.arange(40) % 10)
    return DataSet("drawn", HOUSEHOLD_CLASSES, images, images)


@pytest.fixture(scope="session")
def source() -> ExportSource:
    """The tiny network at 64 px: BatchNorm statistics taken from images and logits spread over several units."""
    torch.manual_seed(0)
    dataset = drawn_dataset()
    spec = preset("tiny", resolution_px=64)
    model = build_model(spec)
    inputs = normalise(dataset.train.pixels)
    model.train()
    with torch.no_grad():
        for _ in range(20):
            model(inputs)
        model.eval()
        last = [m for m in model.modules() if isinstance(m, torch.nn.Linear)][-1]
        last.weight.mul_(3 / model(inputs).std())
        assert model(inputs).std() > 1
    signature = make_signature(HOUSEHOLD_CLASSES)
    return make_source(name="tiny", model=model, spec=spec, signature=signature, dataset=dataset)


@pytest.fixture(scope="session")
def exported(source: ExportSource, once: Callable[..., Path]) -> Exported:
    options = ExportOptions(calibration=32)
    made = once("exported", lambda folder: export_bundle(source, folder / "bundle", options))
    return Exported(source, open_bundle(made / "bundle"))


@pytest.fixture
def fp32_ptl() -> ExportOptions:
    """The quickest export there is."""
    return ExportOptions(formats=("ptl",), precisions=("fp32",))


@pytest.fixture
def copied(exported: Exported, tmp_path: Path) -> Path:
    """A copy of the bundle that a test may damage."""
    import shutil

    return Path(shutil.copytree(exported.bundle.root, tmp_path / "bundle"))


_NUMBERS = itertools.count()


@pytest.fixture
def their(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Write a user's module, which defines ``build``, and return its ``module:factory``."""
    made: list[str] = []

    def write(code: str) -> str:
        made.append(f"their_module_{next(_NUMBERS)}")
        folder = tmp_path / "theirs"
        folder.mkdir(exist_ok=True)
        heading = "import torch\nimport torch.nn.functional as F\nfrom torch import nn\n"
        (folder / f"{made[-1]}.py").write_text(heading + textwrap.dedent(code))
        monkeypatch.syspath_prepend(str(folder))
        return f"{made[-1]}:build"

    yield write
    for name in made:
        sys.modules.pop(name, None)
