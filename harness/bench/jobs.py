"""From a cell to the job of its process: which file, which inputs, and what its first answers should be."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from exporters.bundle.manifest import Loadable, plain
from exporters.bundle.open import Bundle, bundle_sha256, open_bundle
from exporters.preflight.onnx_facts import load_model
from harness.bench.rounds import EAGER, FLOOR, Plan
from harness.cell.run import Job, Task
from harness.inputs import GoldenPack, golden_pack, normalized
from harness.records import BenchCell, BenchedBundle, RunSpec
from harness.runners.table import FloatArray
from harness.runners.torch import ALLOW_FACTORY
from udacisense.base.records import Scalar
from udacisense.errors import InputError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class _Opened:
    bundle: Bundle
    golden: GoldenPack
    inputs: dict[str, Path]  # input kind -> .npy


class Jobs:
    """Makes the jobs of a sweep; what they need is written into a folder that outlives them."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        """Open the plan's bundles and write their inputs.

        Raises:
            InputError: a bundle is not what it was when the sweep was planned.
        """
        self._folder, self._budget, self._seed = folder, plan.budget, plan.seed
        self._eager_options: dict[str, Scalar] = {ALLOW_FACTORY: plan.allow_factory}
        self._opened = {bundle.name: _open(bundle, folder) for bundle in plan.bundles}
        self._floors: dict[str, tuple[Loadable, Path]] = {}
        self._read: set[Path] = set()  # .onnx files that name no other file

    def make(self, cell: BenchCell, *, task: Task) -> Job:
        """Return the job of one process of a cell.

        Raises:
            LoadError: its ``.onnx`` is damaged, or keeps weights in another file.
        """
        opened = self._opened[cell.bundle] if cell.bundle else next(iter(self._opened.values()))
        variant, path = self._file(cell, opened)
        return Job(
            task=task,
            spec=RunSpec(
                variant_id=variant.id,
                runner=cell.runner,
                engine=cell.engine,
                threads=cell.threads,
                batch_size=cell.batch_size,
                warmup=self._budget.warmup,
                min_samples=self._budget.min_samples,
                min_s=self._budget.min_s,
                max_s=self._budget.max_s,
                timeout_s=self._budget.timeout_s,
                seed=self._seed,
            ),
            variant=variant,
            model_path=str(path.absolute()),
            inputs_path=str(opened.inputs[variant.input_kind]),
            others=(),
        )

    def wrong_answers(self, cell: BenchCell, outputs: FloatArray | None) -> int | None:
        """Return how many of the first call's answers are not what the golden pack expects; None: nothing to compare.

        This is no verification: it keeps a broken file from being praised for its speed.
        """
        if outputs is None or cell.bundle is None:
            return None
        opened = self._opened[cell.bundle]
        expected = _expected(opened, cell)[np.arange(len(outputs)) % len(opened.golden.logits)].argmax(axis=1)
        return int((~np.isfinite(outputs).all(axis=1) | (outputs.argmax(axis=1) != expected)).sum())

    def _file(self, cell: BenchCell, opened: _Opened) -> tuple[Loadable, Path]:
        if cell.bundle is None:
            return self._floor(cell, opened)
        if cell.format == EAGER:
            # The runner opens the bundle itself; the record says which eager model: the float32 master.
            eager = dataclasses.replace(plain(EAGER, "torchscript"), options=self._eager_options)
            return eager, opened.bundle.root
        variant = next(v for v in opened.bundle.manifest.variants if v.id == cell.variant_id)
        if variant.path is None:
            raise InputError(f"{variant.id} of {opened.bundle.root} has no file, although it was exported.")
        path = opened.bundle.path(variant.path)
        if variant.format == "onnx" and path not in self._read:
            # onnxruntime follows the names of other files, wherever they lie; this raises before it can.
            load_model(path)
            self._read.add(path)
        return variant.loadable, path

    def _floor(self, cell: BenchCell, opened: _Opened) -> tuple[Loadable, Path]:
        if cell.format not in self._floors:
            signature = opened.bundle.manifest.signature
            path = write_floor(
                cell.format, self._folder, shape=signature.input_shape, classes=signature.output_shape[1]
            )
            self._floors[cell.format] = plain(f"{FLOOR}-{cell.format}", cell.format), path  # type: ignore[arg-type]  # of FLOOR_FORMATS
        return self._floors[cell.format]


def _open(bundle: BenchedBundle, folder: Path) -> _Opened:
    path = Path(bundle.path)
    opened = open_bundle(path)
    if bundle_sha256(opened.root) != bundle.sha256:
        raise InputError(f"The bundle {path} was changed after the sweep was planned; start the sweep again.")
    golden = golden_pack(path, opened.manifest)
    arrays: dict[str, NDArray[np.float32]] = {
        "normalized": normalized(golden.inputs.pixels, opened.manifest.signature),
        "pixels": golden.inputs.pixels.astype(np.float32),
    }
    files = {}
    for kind, array in arrays.items():
        files[kind] = folder / f"{bundle.name.replace('/', '_')}-{kind}.npy"
        np.save(files[kind], array)
    return _Opened(bundle=opened, golden=golden, inputs=files)


def _expected(opened: _Opened, cell: BenchCell) -> NDArray[np.float32]:
    variant = next((v for v in opened.bundle.manifest.variants if v.id == cell.variant_id), None)
    return opened.bundle.golden_logits(variant)


FLOOR_FORMATS = ("torchscript", "ptl", "onnx", "ort")


def write_floor(format_name: str, folder: Path, *, shape: tuple[int, int, int, int], classes: int) -> Path:
    """Write the identity model of one format into ``folder`` and return its path.

    It maps float32 ``shape`` (N, 3, H, W), any N, to (N, classes).
    """
    if format_name in {"onnx", "ort"}:
        return _write_onnx(folder / "floor.onnx", shape=shape, classes=classes)
    import torch

    with torch.inference_mode():
        traced = torch.jit.freeze(torch.jit.trace(_identity(classes), torch.zeros(shape)))  # type: ignore[no-untyped-call]
    if format_name == "ptl":
        path = folder / "floor.ptl"
        traced._save_for_lite_interpreter(str(path))
        return path
    path = folder / "floor.pt"
    traced.save(str(path))
    return path


def _identity(classes: int) -> torch.nn.Module:
    import torch

    class Identity(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1).narrow(1, 0, classes).contiguous()

    return Identity().eval()


def _write_onnx(path: Path, *, shape: tuple[int, int, int, int], classes: int) -> Path:
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    limits = [
        numpy_helper.from_array(np.array([value], dtype=np.int64), name)
        for name, value in (("start", 0), ("end", classes), ("axis", 1))
    ]
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["input"], ["flat"], axis=1),
            helper.make_node("Slice", ["flat", "start", "end", "axis"], ["logits"]),
        ],
        "floor",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", *shape[1:]])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes])],
        limits,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path
