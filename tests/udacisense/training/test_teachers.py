from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from training_cases import CLASSES, SIZE_PX, build, coloured, held_back, mobilenet_spec

from udacisense.base.records import Signature
from udacisense.data.batches import normalise
from udacisense.data.images import NO_LABEL, make_signature
from udacisense.errors import InputError, LoadError
from udacisense.measure.recording import record_stage
from udacisense.models.artifact import save_artifact
from udacisense.models.build import preset
from udacisense.models.layers import Resize
from udacisense.training.teachers import Answers, OnnxTeacher, load_teacher
from udacisense.training.transfer import TransferBatches


def channel_means(path: Path, *, taken: tuple[object, ...] = ("n", 3, SIZE_PX, SIZE_PX), keepdims: int = 0) -> Path:
    """An ONNX file whose logits are the mean of each colour channel of its 0-255 input."""
    axes = numpy_helper.from_array(np.array([2, 3], np.int64), "axes")
    node = helper.make_node("ReduceMean", ["pixels", "axes"], ["logits"], keepdims=keepdims)
    graph = helper.make_graph(
        [node],
        "means",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, taken)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [axes],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def signature(labels: tuple[str, ...] = CLASSES, *, size_px: int = SIZE_PX) -> Signature:
    return make_signature(labels, size_px=size_px)


def kept_teacher(folder: Path, own: Signature) -> tuple[Path, torch.nn.Module]:
    """An untrained network kept as an artifact that takes and answers what a signature says."""
    model = build(spec := preset("tiny", num_classes=len(own.labels), size_px=own.size_px, resolution_px=32))
    given = {"class_names": own.labels, "input_shape": own.input_shape, "config": {}, "duration_s": 0.0}
    figures = record_stage(model, stage="baseline", test=held_back(), **given)
    save_artifact(folder, name="t", model=model, spec=spec, signature=own, baseline=figures, stages=(), seed=0)
    return folder, model


def test_an_onnx_teacher_gets_pixels(tmp_path: Path) -> None:
    teacher = load_teacher(channel_means(tmp_path / "t.onnx"), signature())
    pixels = coloured(5, seed=0).pixels
    answered = teacher(normalise(pixels))
    torch.testing.assert_close(answered, pixels.float().mean((2, 3)), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(
    "taken", [(1, 3, SIZE_PX, SIZE_PX), (4, 3, "h", "w"), ("n", 3, 2 * SIZE_PX, 2 * SIZE_PX)], ids=str
)
def test_an_onnx_teacher_of_fixed_sizes_gets_the_images_in_these(tmp_path: Path, taken: tuple[object, ...]) -> None:
    teacher = load_teacher(channel_means(tmp_path / "t.onnx", taken=taken), signature())
    pixels = coloured(5, seed=0).pixels
    torch.testing.assert_close(teacher(normalise(pixels)), pixels.float().mean((2, 3)), rtol=1e-2, atol=1)


@pytest.mark.parametrize(
    ("taken", "keepdims", "words"),
    [
        (("n", 1, SIZE_PX, SIZE_PX), 0, r"takes \('n', 1, 16, 16\) and does not answer two images of 16 px"),
        (("n", SIZE_PX, SIZE_PX, 3), 0, r"RGB pixels 0-255, float32 \(b, 3, H, W\)"),
        (("n", 3, SIZE_PX, SIZE_PX), 1, r"it answers \(2, 3, 1, 1\)"),
    ],
    ids=str,
)
def test_an_onnx_teacher_of_other_things_is_refused(
    tmp_path: Path, taken: tuple[object, ...], keepdims: int, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        load_teacher(channel_means(tmp_path / "t.onnx", taken=taken, keepdims=keepdims), signature())


def test_an_exported_file_which_takes_normalised_images_is_no_teacher(tmp_path: Path) -> None:
    model = onnx.load(channel_means(tmp_path / "t.onnx"))
    helper.set_model_props(model, {"udacisense": "{}"})
    onnx.save(model, tmp_path / "t.onnx")
    with pytest.raises(InputError, match=r"takes normalised images.* give the artifact's folder"):
        load_teacher(tmp_path / "t.onnx", signature())


def test_a_model_that_ships_teaches_by_its_name() -> None:
    labels = ("clock", "keyboard", "lamp", "telephone", "television", "bed", "chair", "couch", "table", "wardrobe")
    teacher = load_teacher(Path("tiny"), signature(labels, size_px=32))
    assert teacher(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_a_teacher_that_takes_other_images_gets_its_own_form_of_the_students(tmp_path: Path) -> None:
    own = make_signature(CLASSES, size_px=2 * SIZE_PX, mean=(0.5, 0.4, 0.3), std=(0.5, 0.25, 0.2))
    folder, model = kept_teacher(tmp_path / "t", own)
    pixels = coloured(5, seed=0).pixels
    teacher = load_teacher(folder, signature())
    assert isinstance(teacher, torch.nn.Module)
    with torch.inference_mode():
        # Bilinear weights add up to one, so that it is the same whether pixels are resized or what they become.
        wanted = model(Resize(own.size_px)(normalise(pixels, mean=own.mean, std=own.std)))
        torch.testing.assert_close(teacher.eval()(normalise(pixels)), wanted, rtol=1e-4, atol=1e-4)


def test_a_teacher_of_more_classes_answers_the_students_in_the_students_order(tmp_path: Path) -> None:
    folder, model = kept_teacher(tmp_path / "t", signature(("blue", "grey", "red", "black", "green")))
    images = normalise(coloured(5, seed=0).pixels)
    teacher, general = (load_teacher(folder, signature(), same_classes=same) for same in (True, False))
    assert isinstance(teacher, torch.nn.Module)
    assert isinstance(general, torch.nn.Module)
    with torch.inference_mode():
        answered, whole = teacher.eval()(images), general.eval()(images)
        torch.testing.assert_close(whole, model(images))
    torch.testing.assert_close(answered, whole[:, [2, 4, 0]])


def test_teachers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="answers 3 classes and the data has 2"):
        load_teacher(channel_means(tmp_path / "t.onnx"), signature(("red", "blue")))
    with pytest.raises(InputError, match="is no teacher"):
        load_teacher(tmp_path / "none.pt", signature())
    (tmp_path / "bad.onnx").write_text("no model")
    with pytest.raises(LoadError, match=r"bad\.onnx"):
        load_teacher(tmp_path / "bad.onnx", signature())
    folder, _ = kept_teacher(tmp_path / "t", signature(("red", "green", "cyan")))
    with pytest.raises(InputError, match="does not answer blue, which the data has; its classes are red, green, cyan"):
        load_teacher(folder, signature())
    assert load_teacher(folder, signature(), same_classes=False)


def test_a_teacher_is_asked_once_about_each_view_and_its_kept_answers_are_those_it_gave() -> None:
    asked: list[int] = []
    model = build(mobilenet_spec())

    def ask(images: torch.Tensor) -> torch.Tensor:
        asked.append(len(images))
        with torch.no_grad():
            return model(images)

    labelled, others = coloured(6, seed=0), coloured(12, seed=1)
    others.labels[:] = NO_LABEL
    batches = TransferBatches(labelled, others, batch_size=6, ratio=1.0, mix=0.5, views=(2, 2))
    answers = Answers(ask, batches, ask_at_once=5)
    for epoch in range(8):
        batches.set_epoch(epoch)
        answers.prepare(lambda *_, **__: None)
        for batch in batches:
            torch.testing.assert_close(answers[batch.rows], model(batch[0]).detach(), rtol=1e-4, atol=1e-4)
    assert sum(asked) == 2 * 6 + 2 * 12  # each view of each image, once
    assert max(asked) == 5


def test_another_file_is_another_teacher(tmp_path: Path) -> None:
    first = OnnxTeacher(channel_means(tmp_path / "a.onnx"), signature())
    changed = onnx.load(tmp_path / "a.onnx")
    changed.doc_string = "other"
    onnx.save(changed, tmp_path / "b.onnx")
    other = OnnxTeacher(tmp_path / "b.onnx", signature())
    again = OnnxTeacher(tmp_path / "a.onnx", signature())
    assert again.fingerprint == first.fingerprint != other.fingerprint
