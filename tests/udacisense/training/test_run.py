from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from training_cases import SIZE_PX, batches, build, coloured, dataset, tiny_spec

from udacisense.data.batches import Batches
from udacisense.errors import InputError
from udacisense.measure.metrics import evaluate
from udacisense.models.artifact import load_artifact
from udacisense.training import Compute, TrainConfig, train, train_model, training_split

FAST = TrainConfig(epochs=2, warmup_epochs=0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this host has CUDA")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="this machine has cpu"):
        train(build(tiny_spec()), batches(), config=dataclasses.replace(FAST, compute=Compute(device="cuda")))


def test_early_stopping_without_validation_is_refused() -> None:
    with pytest.raises(InputError, match="validation"):
        train(build(tiny_spec()), batches(), config=dataclasses.replace(FAST, early_stopping_patience=2))


def test_a_label_beyond_the_models_classes_is_refused() -> None:
    images = coloured(16, seed=0)
    images.labels[3] = 7
    with pytest.raises(InputError, match="a label is 7"):
        train(build(tiny_spec()), Batches(images, batch_size=16), config=FAST)


def test_train_model_keeps_an_artifact_whose_figures_are_those_of_its_weights(tmp_path) -> None:
    data = dataset(n_train=90)
    config = TrainConfig(epochs=12, learning_rate=1e-2)
    artifact = train_model(tiny_spec(), data, config=config, output_dir=tmp_path, batch_size=16, name="colours")
    read, model = load_artifact(tmp_path / "artifact")
    assert read == artifact
    found = evaluate(model, Batches(data.test, batch_size=30), data.class_names)
    assert artifact.baseline.top1_fraction == found.top1_fraction > 0.5
    assert artifact.baseline.n_eval_images == 30
    assert artifact.stages == ()
    assert artifact.signature.input_shape == (1, 3, SIZE_PX, SIZE_PX)
    history = json.loads((tmp_path / "training" / "history.json").read_text())
    assert [e["epoch"] for e in history["epochs"]] == list(range(1, 13))


def test_a_model_with_a_class_too_many_is_refused_before_it_trains(tmp_path) -> None:
    spec = dataclasses.replace(tiny_spec(), options={**tiny_spec().options, "num_classes": 4})
    with pytest.raises(InputError, match="answers 4 classes and the data has 3;"):
        train_model(spec, dataset(n_train=90), config=TrainConfig(epochs=1), output_dir=tmp_path, batch_size=16)
    assert not (tmp_path / "training").exists()


def test_the_split_is_the_same_for_every_seed_and_takes_training_images_alone() -> None:
    data = dataset(n_train=90)
    images, drawn = training_split(data)
    assert (len(images), len(drawn)) == (81, 9)
    together = torch.cat([images.pixels, drawn.pixels]).flatten(1).tolist()
    assert sorted(together) == sorted(data.train.pixels.flatten(1).tolist())
    assert torch.equal(training_split(data)[1].pixels, drawn.pixels)
