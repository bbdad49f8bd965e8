from __future__ import annotations

import copy
import io
import threading

import pytest
import torch
from torch import nn
from training_cases import SIZE_PX, build, mobilenet_spec, tiny_spec, trained_like

from udacisense.base.tensors import supported_engines, torchscript_bytes
from udacisense.errors import InputError, StageError
from udacisense.stages.contract import copy_of
from udacisense.stages.graph import decisions, is_frozen, trace_and_freeze
from udacisense.stages.quantize import dynamic_int8

EXAMPLE = torch.randn(1, 3, SIZE_PX, SIZE_PX, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(5, 3, SIZE_PX, SIZE_PX, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("spec", [tiny_spec(), mobilenet_spec()], ids=["tiny", "mobilenet"])
def test_the_frozen_graph_answers_as_the_eager_model_in_any_batch_size(spec) -> None:
    model = trained_like(spec)
    frozen = trace_and_freeze(model, EXAMPLE)
    assert is_frozen(frozen)
    assert not is_frozen(model)
    with torch.inference_mode():
        expected = model(IMAGES)
        assert torch.allclose(frozen(IMAGES), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_batch_normalisation_is_folded_away() -> None:
    frozen = trace_and_freeze(trained_like(tiny_spec()), EXAMPLE)
    operators = {node.kind() for node in frozen.graph.nodes()}
    assert "aten::_convolution" in operators or "aten::conv2d" in operators
    assert "aten::batch_norm" not in operators
    assert not list(frozen.parameters())


def test_the_file_answers_bit_by_bit_as_the_module_it_was_written_from() -> None:
    frozen = trace_and_freeze(trained_like(tiny_spec()), EXAMPLE)
    loaded = torch.jit.load(io.BytesIO(torchscript_bytes(frozen)))
    with torch.inference_mode():
        assert torch.equal(loaded(IMAGES), frozen(IMAGES))


def test_what_is_frozen_is_returned_unchanged() -> None:
    frozen = trace_and_freeze(trained_like(tiny_spec()), EXAMPLE)
    assert trace_and_freeze(frozen, EXAMPLE) is frozen


def test_a_scripted_module_that_is_not_frozen_is_frozen() -> None:
    scripted = torch.jit.trace(trained_like(tiny_spec()), EXAMPLE)
    assert is_frozen(trace_and_freeze(scripted, EXAMPLE))
    assert not is_frozen(scripted)


def test_a_model_in_training_mode_is_frozen_as_in_evaluation_and_left_in_training() -> None:
    model = trained_like(tiny_spec())
    with torch.no_grad():
        expected = model(IMAGES)
    model.train()
    frozen = trace_and_freeze(model, EXAMPLE)
    assert model.training
    with torch.no_grad():
        assert torch.allclose(frozen(IMAGES), expected, atol=1e-5)


@pytest.mark.parametrize("engine", supported_engines())
def test_an_int8_model_keeps_its_answers(engine: str) -> None:
    packed = dynamic_int8(trained_like(mobilenet_spec()), engine=engine)
    frozen = trace_and_freeze(packed, EXAMPLE)
    with torch.inference_mode():
        expected = packed(IMAGES)
        assert (frozen(IMAGES) - expected).abs().max() <= 0.05 * expected.abs().max()


# Tracing warns of the very branch that the check then refuses.
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_forward_that_branches_on_its_input_is_refused() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = build(tiny_spec())

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits = self.inner(images)
            return logits if images.sum() > EXAMPLE.sum() - 1 else logits + 1

    assert EXAMPLE.sum() != 0
    with pytest.raises(StageError, match=r"froze a decision on the input's values, at test_graph\.py:"):
        trace_and_freeze(Branching(), EXAMPLE)


def test_a_forward_that_cannot_be_traced_is_refused_by_the_class_name() -> None:
    class Texting(nn.Module):
        def forward(self, images: torch.Tensor) -> object:  # noqa: ARG002
            return "no tensor"

    with pytest.raises(StageError, match="Texting cannot be traced"):
        trace_and_freeze(Texting(), EXAMPLE)


class LeNetStyle(nn.Module):
    """Takes the maps of a convolution apart by view(), as the oldest of tutorials does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 5), nn.Linear(8 * 28 * 28, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(images).relu().view(-1, 8 * 28 * 28))


class Swish(torch.autograd.Function):
    """As memory-efficient networks have it."""

    @staticmethod
    def forward(ctx, maps):
        ctx.save_for_backward(maps)
        return maps * maps.sigmoid()


class Doubled(torch.autograd.Function):
    """With the context apart, as PyTorch's own checkpointing has it."""

    @staticmethod
    def forward(maps):
        return maps * 2

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs, output)


ALIAS = Swish.apply


def test_an_autograd_function_becomes_its_forward_and_a_hidden_one_is_named() -> None:
    class Net(nn.Module):
        def __init__(self, function):
            super().__init__()
            self.conv, self.function = nn.Conv2d(3, 4, 3), function

        def forward(self, images):
            return self.function(self.conv(images)).mean((2, 3))

    model = Net(lambda maps: Doubled.apply(Swish.apply(maps))).eval()
    frozen = trace_and_freeze(model, EXAMPLE)
    assert frozen._save_to_buffer_for_lite_interpreter()
    with torch.inference_mode():
        assert torch.allclose(frozen(IMAGES), model(IMAGES), atol=1e-5)
    model(IMAGES).sum()  # outside of a trace they are what they were
    assert Swish.apply.__func__ is ALIAS.__func__
    with pytest.raises(StageError, match=r"Net calls Swish.apply, an autograd function, by another name"):
        trace_and_freeze(Net(ALIAS).eval(), EXAMPLE)


def test_a_model_that_needs_the_plain_layout_is_frozen_in_it() -> None:
    model, images = LeNetStyle().eval(), torch.randn(3, 3, 32, 32)
    frozen = trace_and_freeze(model, images[:1])
    with torch.inference_mode():
        assert torch.allclose(frozen(images), model(images), atol=1e-5)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_model_that_checks_its_layout_is_frozen_in_the_plain_one() -> None:
    class Checks(LeNetStyle):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            maps = self.conv(images)
            assert maps.stride()[1] == maps.shape[2] * maps.shape[3]
            return self.fc(maps.flatten(1))

    model, images = Checks().eval(), torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        assert torch.allclose(trace_and_freeze(model, images[:1])(images), model(images), atol=1e-5)


class Keeps(nn.Module):
    """Keeps its last map, as tools for heat maps do, and has a weight that is computed anew by each forward."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.utils.weight_norm(nn.Conv2d(3, 4, 3))
        self.kept: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.kept = [self.conv(images)]
        return self.kept[0].mean((2, 3))


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
def test_a_model_that_keeps_maps_and_weight_norm_is_copied() -> None:
    model, images = Keeps().eval(), torch.randn(1, 3, 16, 16)
    expected = model(images)
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(model)
    copied = copy_of(model)
    assert torch.equal(copied(images), expected)
    with torch.inference_mode():
        assert torch.allclose(trace_and_freeze(model, images)(images), expected, atol=1e-5)
    model.lock = threading.Lock()
    with pytest.raises(InputError, match=r"Keeps cannot be copied .*lock"):
        copy_of(model)


def test_a_decision_on_values_is_found_and_one_on_sizes_is_none() -> None:
    class Decides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.ones(1))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            pooled = images.mean((2, 3)) if images.shape[2] > 1 and self.scale.item() == 1 else images.flatten(1)
            return pooled if float(pooled.max()) < 1e9 else -pooled

    (place,) = decisions(Decides(), EXAMPLE)
    assert place.startswith("test_graph.py:")
    assert "float(pooled.max()) < 1e9" in place
    with pytest.raises(StageError, match="froze a decision on the input's values"):
        trace_and_freeze(Decides(), EXAMPLE)
    assert decisions(trained_like(tiny_spec()), EXAMPLE) == ()
