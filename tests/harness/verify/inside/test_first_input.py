"""What reaches the first layer of a file: whole files at every precision, and changed fronts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from bundle_damage import copied, rehash

from exporters.bundle.open import Bundle, open_bundle
from exporters.bundle.reference import kept_recipe
from exporters.formats.onnx.graph import RESIZING
from harness.runners.table import CannotJudgeError
from harness.verify.inside import first_input
from harness.verify.inside.first_input import LIMIT, compare_input, reference_input
from harness.verify.inside.run import FORMATS, PRECISIONS
from harness.verify.options import VerifyOptions
from harness.verify.run import verify_bundle
from udacisense.base.records import Outcome

COARSE = ("onnx-int8-static", "onnx-int8-dynamic", "onnx-fp16")


@pytest.fixture(scope="module")
def bundle(small_bundle: Path) -> Bundle:
    return open_bundle(small_bundle)


def in_front(operator: str, value: list[float]) -> Callable[[Any], None]:
    """Put an element-wise operation between the input and all that takes it."""

    def edit(model: Any) -> None:
        from onnx import TensorProto, helper

        graph = model.graph
        name = graph.input[0].name
        for node in graph.node:
            node.input[:] = ["changed" if given == name else given for given in node.input]
        shape = [1, len(value), 1, 1]
        graph.initializer.append(helper.make_tensor("by", TensorProto.FLOAT, shape, value))
        graph.node.insert(0, helper.make_node(operator, [name, "by"], ["changed"]))

    return edit


def other_corners(model: Any) -> None:
    """Resize as with aligned corners: the matrices of both products are others."""
    from onnx import numpy_helper

    graph = model.graph
    tensors = {t.name: t for t in graph.initializer}
    tensors |= {n.output[0]: n.attribute[0].t for n in graph.node if n.op_type == "Constant"}
    casts = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "Cast"}
    products = [n for n in graph.node if n.op_type == "MatMul" and n.name.startswith(RESIZING)]
    assert len(products) == 2
    for name in (casts.get(given, given) for node in products for given in node.input):
        if name in tensors:
            matrix = numpy_helper.to_array(tensors[name])
            few, many = sorted(matrix.shape)
            lines = torch.eye(few).view(1, few, few, 1)
            aligned = F.interpolate(lines, size=(many, 1), mode="bilinear", align_corners=True).view(few, many).numpy()
            turned = aligned if matrix.shape == aligned.shape else aligned.T
            tensors[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(turned, matrix.dtype), name))


def edited(small_bundle: Path, folder: Path, name: str, edit: Callable[[Any], None]) -> Bundle:
    import onnx

    bundle = open_bundle(copied(small_bundle, folder / "edited"))
    path = bundle.path(str(bundle.variant(name).path))
    model = onnx.load(path)
    edit(model)
    onnx.save(model, path)
    rehash(bundle.root)
    return open_bundle(bundle.root)


def test_whole_files_pass_at_every_precision(bundle: Bundle) -> None:
    expected = reference_input(bundle, bundle.exported()[0], None)
    found = [v for v in bundle.exported() if v.format in FORMATS and v.precision in PRECISIONS]
    assert {v.format for v in found} == {"onnx", "coreml"}  # what this environment writes
    for variant in found:
        assert compare_input(bundle, variant, expected) == (), variant.id


@pytest.mark.parametrize("name", COARSE)
@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (in_front("Add", [0.09]), "1 times as large and shifted by 0.09, as by another mean"),
        (in_front("Mul", [1.02]), "1.02 times as large and shifted by"),
        (in_front("Add", [0.0, 0.09, 0.0]), "another picture, as by another resize, channel order, mean"),
        (in_front("Mul", [0.0]), "the same everywhere"),
        (in_front("Mul", [float("nan")]), "NaN or infinite"),
        (other_corners, "another picture, as by another resize"),
    ],
)
def test_another_mean_std_or_resize_is_told(
    small_bundle: Path, tmp_path: Path, name: str, edit: Callable[[Any], None], words: str
) -> None:
    changed = edited(small_bundle, tmp_path, name, edit)
    variant = changed.variant(name)
    (problem,) = compare_input(changed, variant, reference_input(changed, variant, None))
    assert words in problem


def test_a_change_below_the_limit_is_not_told(small_bundle: Path, tmp_path: Path) -> None:
    changed = edited(small_bundle, tmp_path, COARSE[0], in_front("Mul", [1 + LIMIT / 2]))
    variant = changed.variant(COARSE[0])
    assert compare_input(changed, variant, reference_input(changed, variant, None)) == ()


def test_a_file_without_such_a_layer_is_not_judged(bundle: Bundle) -> None:
    with pytest.raises(CannotJudgeError, match="the file's first layer is not its source's"):
        compare_input(bundle, bundle.variant(COARSE[0]), np.zeros((2, 3, 7, 7), np.float32))


def test_static_int8_behind_another_mean_fails_a_verification(small_bundle: Path, tmp_path: Path) -> None:
    """Its answers alone do not show it: quantisation moves them as much."""
    name = "onnx-int8-static"
    changed = edited(small_bundle, tmp_path, name, in_front("Add", [0.09]))
    options = VerifyOptions(variants=(name,), runners=("onnxruntime",))
    (found,) = verify_bundle(open_bundle(changed.root), options).measurements
    assert found.outcome is Outcome.FAILED
    assert "what reaches its first layer is" in (found.reason or "")


def test_the_range_of_a_recipe_may_cut_the_ends_and_no_other(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    variant = bundle.variant("onnx-int8-static")
    recipe = kept_recipe(bundle, variant)
    assert recipe is not None
    scale, zero = recipe["activation_post_process_0"].tolist()
    low, high = -zero * scale, (255 - zero) * scale
    wide = np.linspace(3 * low, 3 * high, 1000, dtype=np.float32)
    monkeypatch.setattr(first_input, "_file_input", lambda *_: wide.clip(low, high))
    assert compare_input(bundle, variant, wide) == ()
    monkeypatch.setattr(first_input, "_file_input", lambda *_: wide.clip(0.9 * low, 0.9 * high))
    assert compare_input(bundle, variant, wide) != ()
