"""Initial weights are refused before a run exactly where the run would refuse them."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import save_file
from training_cases import build, mobilenet_spec, tiny_spec

from udacisense.base.records import ModelSpec
from udacisense.errors import InputError, LoadError
from udacisense.models.build import preset
from udacisense.pipeline.initial import check_init, check_student_init


def weights_of(spec: ModelSpec, path: Path, *, features_only: bool = False) -> str:
    state = {k: v.clone() for k, v in build(spec).state_dict().items()}
    save_file({k: v for k, v in state.items() if k.startswith("features.") or not features_only}, path)
    return str(path)


def test_a_student_starts_from_a_file_with_another_classifier(tmp_path: Path) -> None:
    many = preset("tiny", num_classes=90, resolution_px=16, size_px=16)
    check_student_init(tiny_spec(), weights_of(tiny_spec(), tmp_path / "whole"))
    check_student_init(tiny_spec(), weights_of(many, tmp_path / "many"))
    with pytest.raises(LoadError, match="another model"):
        check_student_init(tiny_spec(), weights_of(mobilenet_spec(), tmp_path / "other"))


def test_training_starts_from_whole_weights_or_from_features_alone(tmp_path: Path) -> None:
    many = preset("tiny", num_classes=90, resolution_px=16, size_px=16)
    check_init(tiny_spec(), weights_of(many, tmp_path / "features", features_only=True))
    check_init(tiny_spec(), weights_of(many, tmp_path / "many"))  # another classifier is trained anew
    with pytest.raises(LoadError, match="another model"):
        check_init(tiny_spec(), weights_of(mobilenet_spec(), tmp_path / "other"))


@pytest.mark.parametrize("init", ["auto", "none"])
def test_words_that_need_no_file_are_taken(init: str) -> None:
    check_student_init(tiny_spec(), init)


def test_imagenet_is_for_the_networks_that_it_exists_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("baseline", "p1-student"):
        check_init(mobilenet_spec(name), "imagenet")
        check_student_init(mobilenet_spec(name), "imagenet")
    for spec in (mobilenet_spec("p1-slim"), tiny_spec()):
        with pytest.raises(InputError, match="ImageNet weights exist for"):
            check_student_init(spec, "imagenet")
    assert not (tmp_path / "torch").exists(), "a check downloads nothing"
