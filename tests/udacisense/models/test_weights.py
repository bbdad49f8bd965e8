import argparse
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from udacisense.base.records import ModelSpec
from udacisense.errors import InputError, LoadError
from udacisense.models.build import build_model, preset
from udacisense.models.weights import initialise, load_state, plain_state


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def tiny():
    torch.manual_seed(3)
    return build_model(preset("tiny"))


def saved(tmp_path, state):
    path = tmp_path / "weights.safetensors"
    save_file(state, path)
    return path


def test_whole_weights_are_loaded(tmp_path, tiny, images):
    path = saved(tmp_path, tiny.state_dict())
    by_init, by_state = build_model(preset("tiny")), build_model(preset("tiny"))
    initialise(by_init, str(path), preset("baseline"))
    load_state(by_state, path)
    for other in (by_init, by_state):
        torch.testing.assert_close(other.eval()(images), tiny.eval()(images), rtol=0, atol=0)


def test_features_alone_leave_the_classifier_fresh(tmp_path, tiny):
    path = saved(tmp_path, {k: v for k, v in tiny.state_dict().items() if k.startswith("features.")})
    other = build_model(preset("tiny", num_classes=3))
    fresh = other.classifier[1].weight.clone()
    initialise(other, str(path), preset("baseline"))
    torch.testing.assert_close(other.features[0][0].weight, tiny.features[0][0].weight, rtol=0, atol=0)
    torch.testing.assert_close(other.classifier[1].weight, fresh, rtol=0, atol=0)
    with pytest.raises(LoadError, match=r"classifier\.1\.weight is missing; classifier\.1\.bias is missing"):
        load_state(other, path)


def test_none_changes_nothing(tiny):
    before = {key: value.clone() for key, value in tiny.state_dict().items()}
    initialise(tiny, "none", preset("tiny"))
    assert all(torch.equal(value, before[key]) for key, value in tiny.state_dict().items())


def test_a_different_shape_names_the_key_and_both_shapes(tmp_path, tiny):
    path = saved(tmp_path, tiny.state_dict())
    expected = "classifier.1.weight is (10, 128) and should be (3, 128); classifier.1.bias is (10,) and should be (3,)."
    with pytest.raises(LoadError, match=re.escape(expected)):
        load_state(build_model(preset("tiny", num_classes=3)), path)


def test_a_classifier_of_other_classes_stays_fresh_and_is_said(tmp_path, tiny, caplog):
    other = build_model(preset("tiny", num_classes=3))
    fresh = other.classifier[1].weight.clone()
    initialise(other, str(saved(tmp_path, tiny.state_dict())), preset("tiny", num_classes=3))
    assert "classifier.1 answers other classes" in caplog.text
    torch.testing.assert_close(other.classifier[1].weight, fresh, rtol=0, atol=0)
    torch.testing.assert_close(other.features[0][0].weight, tiny.features[0][0].weight, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (lambda state: state, ""),
        (lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, "'state_dict'"),
        (lambda state: {"model": {}, "ema": {"module": state}, "args": argparse.Namespace(lr=1)}, "'ema.module'"),
        (
            lambda state: {"state_dict": {**{f"model.{k}": v for k, v in state.items()}, "loss.weight": torch.ones(3)}},
            "'model.'",
        ),
        (lambda state: {"weights": state, "best_accuracy": np.float64(0.9)}, "'weights'"),
        (lambda state: {**state, "total_ops": torch.ones(1), "features.0.total_params": torch.ones(1)}, ""),
        (lambda state: {k: v for k, v in state.items() if "num_batches" not in k}, ""),
        (lambda state: {"optimizer": {"state": {0: {"step": torch.ones(1)}}}, "backbone": state}, "'backbone'"),
    ],
)
def test_a_pth_is_read_with_its_wrappers_and_prefixes(*, tmp_path, tiny, images, caplog, wrap, said):
    path = tmp_path / "weights.pth"
    torch.save(wrap(tiny.state_dict()), path)
    other = build_model(preset("tiny"))
    initialise(other, str(path), preset("tiny"))
    torch.testing.assert_close(other.eval()(images), tiny.eval()(images), rtol=0, atol=0)
    assert said in caplog.text


def test_a_pth_that_holds_more_than_tensors_is_refused_with_its_cause(tmp_path, tiny):
    path = tmp_path / "weights.pth"
    for content, words in (
        (tiny, "it holds udacisense.models.layers.ConvClassifier, which is code"),
        ({"epoch": 3}, "no tensors by name; it is epoch"),
        ([1, 2], "it is list"),
        ({"a": torch.ones(2).to_sparse()}, "its a is sparse"),
        ({"a": torch.ones(2, device="meta")}, "its a has no values"),
        ({"a": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}, "its a is quantised already"),
    ):
        torch.save(content, path)
        with pytest.raises(LoadError, match=words):
            load_state(tiny, path, pickled=True)


def test_other_keys_are_named_first_three_and_counted(tmp_path, tiny):
    path = saved(tmp_path, {"features.0.0.weight": torch.zeros(16, 3, 3, 3), "head.weight": torch.zeros(1)})
    with pytest.raises(
        LoadError, match=r"features\.0\.1\.weight is missing; head\.weight is unknown; .*\(and \d+ more\)"
    ):
        load_state(tiny, path)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "ema_model.module."])
def test_a_prefix_of_all_names_is_taken_off_and_said(tmp_path, tiny, prefix, caplog):
    state = {f"{prefix}{key}": value for key, value in tiny.state_dict().items()}
    other = build_model(preset("tiny"))
    load_state(other, saved(tmp_path, state | ({"n_averaged": torch.tensor(3)} if "ema" in prefix else {})))
    assert torch.equal(other.classifier[1].weight, tiny.classifier[1].weight)
    assert "which is taken off" in caplog.text


def test_a_teacher_and_its_student_in_one_file_are_not_guessed_between(tmp_path, tiny):
    state = {
        f"{prefix}.{key}": value.clone()
        for prefix in ("teacher", "student")
        for key, value in tiny.state_dict().items()
    }
    with pytest.raises(LoadError, match=r"2 such models, under .*'student\.'"):
        load_state(tiny, saved(tmp_path, state))


def test_what_is_missing_is_told_without_the_prefix_of_the_rest(tmp_path, tiny):
    state = {f"module.{key}": value for key, value in tiny.state_dict().items() if key.startswith("features.")}
    with pytest.raises(LoadError, match=r"taken without 'module\.', .*: classifier\.1\.weight is missing; classifier"):
        load_state(tiny, saved(tmp_path, state))


def test_whole_numbers_are_no_weights(tmp_path, tiny):
    state = {key: value.to(torch.int8) for key, value in tiny.state_dict().items()}
    with pytest.raises(LoadError, match=r"weight is \(32, 3, 3, 3\) of whole numbers and should be \(32, 3, 3, 3\)"):
        load_state(tiny, saved(tmp_path, state))
    half = {key: value.half() if value.is_floating_point() else value for key, value in tiny.state_dict().items()}
    load_state(tiny, saved(tmp_path, half))


def test_modules_that_look_at_the_version_of_their_state_load_it(tmp_path):
    """torchvision's MNASNet takes a state without a version for that of a network with a wider stem."""
    mnasnet = ModelSpec(architecture="torchvision.models:mnasnet0_5", options={"num_classes": 3})
    model, other = build_model(mnasnet).eval(), build_model(mnasnet).eval()
    load_state(other, saved(tmp_path, plain_state(model)))
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(other(images), model(images))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer: 'git lfs pull'"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"", "empty"),
    ],
)
def test_what_people_give_as_weights_is_named(tmp_path, tiny, content, reason):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(LoadError, match=reason):
        load_state(tiny, path)


@pytest.mark.parametrize("as_zip", [True, False])
def test_a_pickle_of_weights_is_not_read(tmp_path, tiny, as_zip):
    path = tmp_path / "weights.pth"
    torch.save(tiny.state_dict(), path, _use_new_zipfile_serialization=as_zip)
    with pytest.raises(LoadError, match=r"pickle, which may run code and is not read: save its state_dict\(\) with"):
        load_state(tiny, path)


def test_a_failed_load_changes_nothing(tmp_path, tiny):
    before = tiny.features[0][0].weight.clone()
    state = {key: torch.zeros_like(value) for key, value in tiny.state_dict().items()}
    state["classifier.1.bias"] = torch.zeros(11)
    with pytest.raises(LoadError):
        load_state(tiny, saved(tmp_path, state))
    assert torch.equal(tiny.features[0][0].weight, before)


@pytest.mark.parametrize("content", [b"these are no weights\n", b"", b"\x08\x00\x00\x00\x00\x00\x00\x00{}"])
def test_a_file_that_is_no_safetensors_is_one_sentence(tmp_path, tiny, content):
    path = tmp_path / "weights.txt"
    path.write_bytes(content)
    for load in (lambda: load_state(tiny, path), lambda: initialise(tiny, str(path), preset("tiny"))):
        with pytest.raises(LoadError, match=r"weights\.txt is not a readable safetensors file") as caught:
            load()
        assert "\n" not in str(caught.value)


def test_a_truncated_safetensors_file_is_one_sentence(tmp_path, tiny):
    path = saved(tmp_path, tiny.state_dict())
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(
        LoadError, match=r"not a readable safetensors file \(it is cut short or damaged: copy it again\)"
    ):
        load_state(tiny, path)


def test_a_truncated_pth_is_not_called_a_safetensors_file(tmp_path, tiny):
    path = tmp_path / "weights.pth"
    torch.save(tiny.state_dict(), path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(
        LoadError, match=r"not a readable file of weights \(it is a \.zip that was cut short or damaged"
    ):
        load_state(tiny, path, pickled=True)


def test_missing_weights_and_folders_are_named(tmp_path, tiny):
    with pytest.raises(InputError, match="initial weights are pretrained, none, or a path"):
        initialise(tiny, str(tmp_path / "absent"), preset("tiny"))
    with pytest.raises(InputError, match="is no file"):
        initialise(tiny, str(tmp_path), preset("tiny"))


def test_imagenet_weights_are_refused_for_other_networks(tiny):
    for model in (tiny, build_model(preset("p1-slim"))):
        with pytest.raises(InputError, match=r"width_mult 1\.0 only"):
            initialise(model, "imagenet", preset("tiny"))


def test_an_offline_download_names_the_alternatives(no_network):
    with pytest.raises(InputError, match=r"could not be downloaded .*--init PATH .*--init none"):
        initialise(build_model(preset("baseline")), "imagenet", preset("baseline"))
