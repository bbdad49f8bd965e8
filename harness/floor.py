"""The overhead floor: an identity model for each runtime, so that a figure can be told from the cost of the call.

It takes the images and gives back the first few numbers of each: what is left is passing a tensor in, starting the
runtime's interpreter, and passing a tensor out.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from exporters.manifest import Variant
from udacisense.files import sha256_path, size_bytes
from udacisense.types import Outcome

if TYPE_CHECKING:
    import torch

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


def bare_variant(variant_id: str, format_name: str, path: Path) -> Variant:
    """Describe a float32 file as the runners want it: normalised images to logits, any batch."""
    return Variant(
        id=variant_id,
        format=format_name,  # type: ignore[arg-type]  # one of FLOOR_FORMATS
        precision="fp32",
        engine=None,
        path=path.name,
        sha256=sha256_path(path),
        file_bytes=size_bytes(path),
        input_kind="normalized",
        output_kind="logits",
        batch=None,
        coverage=None,
        precision_note="",
        golden_logits_path=None,
        options={},
        toolchain={},
        deterministic=True,
        outcome=Outcome.PASSED,
        reason=None,
        duration_s=0.0,
    )


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
