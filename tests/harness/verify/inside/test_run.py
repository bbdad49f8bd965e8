"""Whole files at every coarse precision; files that a check cannot be put to; sources that fail in their own way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from bundle_damage import copied
from torch import nn

from exporters.bundle.open import Bundle, open_bundle
from harness.verify.inside import worker
from harness.verify.inside.half_range import first_beyond
from harness.verify.inside.run import FORMATS, PRECISIONS, look_inside
from harness.verify.options import VerifyOptions
from udacisense.stages.recipe import rounding_network


@pytest.fixture(scope="module")
def bundle(small_bundle: Path) -> Bundle:
    return open_bundle(small_bundle)


def test_every_coarse_file_of_a_whole_bundle_is_its_sources(bundle: Bundle) -> None:
    found = look_inside(bundle, bundle.manifest.variants, VerifyOptions())
    coarse = [v for v in bundle.exported() if v.precision in PRECISIONS]
    assert set(found) == {v.id for v in coarse if v.format in (*FORMATS, "ort")}
    assert len(found) >= 5
    for name, entry in found.items():
        assert (entry.problems, entry.not_made, entry.notes) == ((), (), ()), name


@pytest.mark.parametrize(("name", "file"), [("onnx-fp16", ""), ("coreml-palette6", "Manifest.json")])
def test_a_check_that_ends_with_an_error_was_not_made(small_bundle: Path, tmp_path: Path, name: str, file: str) -> None:
    damaged = open_bundle(copied(small_bundle, tmp_path / "damaged"))
    variant = damaged.variant(name)
    path = damaged.path(str(variant.path)) / file
    path.write_bytes(path.read_bytes()[:-500])
    found = worker.look(worker.Source(damaged, variant, None), variant)
    assert found.problems == ()
    told = "\n".join(found.not_made)
    assert "what reaches its first layer could not be checked: " in told
    assert "its weights could not be checked: " in told


class Source(worker.Source):
    """A source that cannot be prepared, as one that cannot be copied."""

    @property
    def model(self) -> nn.Module:  # type: ignore[override]
        raise RuntimeError("Only Tensors created explicitly by the user support the deepcopy protocol")


def test_a_source_that_fails_leaves_its_checks_unmade_and_the_others_made(bundle: Bundle) -> None:
    variant = bundle.variant("onnx-int8-dynamic")
    found = worker.look(Source(bundle, variant, None), variant)
    (told,) = found.not_made
    assert told.startswith("its weights could not be checked: RuntimeError: Only Tensors")


def test_files_of_one_recipe_are_held_against_one_rounding(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    rounded = []

    def rounding(*given: Any, **options: Any) -> Any:
        rounded.append(given)
        return rounding_network(*given, **options)

    monkeypatch.setattr(worker, "rounding_network", rounding)
    variants = [bundle.variant(name) for name in ("onnx-int8-static", "ort-int8-static")]
    source = worker.Source(bundle, variants[0], None)
    first, second = (source.expected(variant) for variant in variants)
    assert first is second
    assert len(rounded) == 1


def test_what_is_wrong_with_an_onnx_file_is_wrong_with_the_ort_that_was_made_of_it(
    small_bundle: Path, tmp_path: Path
) -> None:
    damaged = open_bundle(copied(small_bundle, tmp_path / "damaged"))
    path = damaged.root / "model-onnx-int8-static.onnx"
    model = onnx.load(path)
    scale = next(t for t in model.graph.initializer if t.name.endswith("weight.0.scale"))
    scale.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(scale) * np.float32(1.02), scale.name))
    onnx.save(model, path)
    chosen = [damaged.variant(name) for name in ("ort-int8-static", "ort-fp16")]
    found = look_inside(damaged, chosen, VerifyOptions())
    assert set(found) == {"ort-int8-static", "ort-fp16"}
    (problem,) = found["ort-int8-static"].problems
    assert problem.startswith("in onnx-int8-static: the weights of ")
    assert "1.02 times as large" in problem
    assert found["ort-fp16"].problems == ()


class LargeSquares(nn.Module):
    """Normalises a vector whose squares do not fit into float16."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor
        self.conv, self.fc = nn.Conv2d(3, 16, 3), nn.Linear(16, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        vector = self.factor * self.conv(images).relu().mean((2, 3))
        return self.fc(vector / (vector * vector).sum(1, keepdim=True).sqrt())


def test_values_beyond_float16_are_named_with_the_layer_before_them() -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 8, 8)
    found = first_beyond(LargeSquares(1e4), images)
    assert found is not None
    assert found[0] == "after conv (mul)"
    assert found[1] > 65504
    assert first_beyond(LargeSquares(1.0), images) is None
    large = nn.Linear(192, 10)
    nn.init.constant_(large.weight, 1e4)
    found = first_beyond(nn.Sequential(nn.Flatten(), large), images.abs())
    assert found is not None
    assert found[0] == "in 1 (addmm)"


class Masked(nn.Module):
    """Masks as attention does: a constant that float16 does not hold either, and that need not be exact."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        mask = torch.full((1, 4), torch.finfo(torch.float32).min)
        mask[0, 0] = 0
        return (images.mean((2, 3)).sum(1, keepdim=True) + mask).softmax(1)


def test_masks_and_infinities_do_not_count_and_hooks_do_not_stay() -> None:
    assert first_beyond(Masked(), torch.zeros(2, 3, 4, 4)) is None
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.Linear(4, 3))
    with pytest.raises(RuntimeError):
        first_beyond(model, torch.zeros(1, 3, 2, 2))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert first_beyond(nn.Identity(), torch.full((1, 3, 2, 2), float("inf"))) is None


class Unfilled(nn.Module):
    """Fills a tensor that begins as memory of large numbers, as circular padding does."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        large = torch.full(images.shape, 1e30)
        del large
        copied = images.new_empty(images.shape)
        copied.copy_(images)
        return copied.mean((2, 3))


def test_memory_before_it_is_filled_does_not_count() -> None:
    assert first_beyond(Unfilled(), torch.zeros(2, 3, 16, 16)) is None
