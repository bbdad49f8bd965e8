from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from training_cases import SIZE_PX, build, coloured, mobilenet_spec

from udacisense.data.batches import normalise
from udacisense.data.images import MEAN, STD
from udacisense.errors import InputError, LoadError
from udacisense.training.teachers import OnnxTeacher, RememberingTeacher, load_teacher


def channel_means(path: Path) -> Path:
    """An ONNX file whose logits are the mean of each colour channel of its 0-255 input."""
    axes = numpy_helper.from_array(np.array([2, 3], np.int64), "axes")
    node = helper.make_node("ReduceMean", ["pixels", "axes"], ["logits"], keepdims=0)
    graph = helper.make_graph(
        [node],
        "means",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, SIZE_PX, SIZE_PX])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])],
        [axes],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_an_onnx_teacher_gets_pixels(tmp_path: Path) -> None:
    teacher = load_teacher(channel_means(tmp_path / "t.onnx"), num_classes=3)
    pixels = coloured(5, seed=0).pixels
    answered = teacher(normalise(pixels))
    torch.testing.assert_close(answered, pixels.float().mean((2, 3)), rtol=1e-5, atol=1e-3)


def test_teachers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="answers 3 classes and the data has 10"):
        load_teacher(channel_means(tmp_path / "t.onnx"), num_classes=10)
    with pytest.raises(InputError, match="is no teacher"):
        load_teacher(tmp_path / "none.pt", num_classes=3)
    (tmp_path / "bad.onnx").write_text("no model")
    with pytest.raises(LoadError, match=r"bad\.onnx"):
        load_teacher(tmp_path / "bad.onnx", num_classes=3)


def test_a_teacher_that_remembers_is_asked_once_and_says_the_same() -> None:
    asked: list[int] = []
    model = build(mobilenet_spec())

    def ask(images: torch.Tensor) -> torch.Tensor:
        asked.append(len(images))
        with torch.no_grad():
            return model(images)

    images = normalise(coloured(6, seed=0).pixels)
    teacher = RememberingTeacher(ask)
    first = teacher(images[:4])
    again = teacher(images[[3, 5, 0]])
    assert asked == [4, 1]  # of the second batch, one image is new
    torch.testing.assert_close(first, ask(images[:4]))
    assert torch.equal(again[[0, 2]], first[[3, 0]])


def test_another_file_is_another_teacher(tmp_path: Path) -> None:
    first = OnnxTeacher(channel_means(tmp_path / "a.onnx"), mean=MEAN, std=STD)
    changed = onnx.load(tmp_path / "a.onnx")
    changed.doc_string = "other"
    onnx.save(changed, tmp_path / "b.onnx")
    other = OnnxTeacher(tmp_path / "b.onnx", mean=MEAN, std=STD)
    assert RememberingTeacher(first).fingerprint == first.fingerprint != other.fingerprint
