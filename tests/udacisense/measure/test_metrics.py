import io

import numpy as np
import pytest
import torch
from torch import nn

from udacisense.base.records import from_json, to_json
from udacisense.errors import InputError
from udacisense.measure.metrics import (
    evaluate,
    inference,
    mcnemar_p,
    median_latency_ms,
    predict,
    score,
    state_bytes,
    wilson_interval,
)
from udacisense.pipeline.store import write_torchscript

NAMES = tuple("abcdef")


class Echo(nn.Module):
    """Answers the first C values of the image as logits, so that every answer is known."""

    def __init__(self, classes=6):
        super().__init__()
        self.classes = classes

    def forward(self, images):
        return images.flatten(1)[:, : self.classes]


def batch(logits, labels):
    images = torch.zeros(len(labels), 3, 2, 2)
    images.view(len(labels), -1)[:, : len(logits[0])] = torch.tensor(logits, dtype=torch.float32)
    return images, torch.tensor(labels)


BATCHES = [
    batch([[9, 1, 2, 3, 4, 5], [9, 1, 2, 3, 4, 5]], [0, 5]),  # right; wrong, second best
    batch([[0, 1, 2, 9, 4, 5], [0, 1, 2, 9, 4, 5]], [3, 0]),  # right; wrong and last of six
]


def test_figures_of_known_answers():
    evaluation = evaluate(Echo(), BATCHES, NAMES)
    assert evaluation.top1_fraction == 0.5
    assert evaluation.top5_fraction == 0.75
    assert evaluation.per_class == {"a": 0.5, "d": 1.0, "f": 0.0}
    assert evaluation.n_images == 4
    expected = np.zeros((6, 6), dtype=int)
    expected[0, 0] = expected[0, 3] = expected[3, 3] = expected[5, 0] = 1
    assert np.array_equal(np.array(evaluation.confusion), expected)
    assert from_json(type(evaluation), to_json(evaluation), source="x") == evaluation


def test_top5_of_fewer_classes_is_all_of_them():
    evaluation = evaluate(Echo(3), [batch([[1, 2, 3]], [0])], NAMES[:3])
    assert evaluation.top1_fraction == 0
    assert evaluation.top5_fraction == 1


def test_the_mean_recall_counts_each_class_alike():
    labels = torch.tensor([0] * 9 + [1])
    found = score(torch.tensor([[1.0, 0.0]]).expand(10, 2), labels, ("common", "rare"))
    assert found.top1_fraction == 0.9
    assert found.macro_fraction == 0.5
    assert found.per_class == {"common": 1.0, "rare": 0.0}


def test_predict_keeps_the_order_of_the_batches():
    logits, labels = predict(Echo(), BATCHES)
    assert labels.tolist() == [0, 5, 3, 0]
    assert logits[:, 0].tolist() == [9, 9, 0, 0]


def test_nothing_to_evaluate_is_an_error():
    with pytest.raises(InputError, match="no images"):
        evaluate(Echo(), [], NAMES)


def test_another_number_of_classes_is_an_error():
    with pytest.raises(InputError, match="answers 6 classes and the data set has 2"):
        evaluate(Echo(), BATCHES, NAMES[:2])


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.9), nn.Linear(144, 6)
    )


def random_batches():
    generator = torch.Generator().manual_seed(2)
    return [(torch.randn(8, 3, 8, 8, generator=generator), torch.arange(8) % 6) for _ in range(3)]


def test_evaluation_neither_trains_nor_drops_out_and_restores_every_mode():
    model = network().train()
    model[1].eval()  # a frozen BatchNorm inside a training model
    modes = [module.training for module in model.modules()]
    before = model[1].running_mean.clone()
    assert evaluate(model, random_batches(), NAMES) == evaluate(model, random_batches(), NAMES)
    assert torch.equal(model[1].running_mean, before)
    assert [module.training for module in model.modules()] == modes


def test_modes_are_restored_after_an_error():
    model = network().train()
    inside = []

    def fail():
        with inference(model):
            inside.extend([model[4].training, torch.is_grad_enabled()])
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()
    assert inside == [False, False]
    assert model[4].training
    assert torch.is_grad_enabled()


def quantised():
    torch.backends.quantized.engine = torch.backends.quantized.supported_engines[-1]
    return torch.ao.quantization.quantize_dynamic(network().eval(), {nn.Linear}, dtype=torch.qint8)


@pytest.mark.parametrize("kind", ["scripted", "traced", "frozen", "quantised", "quantised-traced"])
def test_other_kinds_of_modules_evaluate_like_the_eager_one(kind):
    eager, example = network().eval(), random_batches()[0][0]
    make = {
        "scripted": lambda: torch.jit.script(network().train()),
        "traced": lambda: torch.jit.trace(eager, example),
        "frozen": lambda: torch.jit.freeze(torch.jit.trace(eager, example)),
        "quantised": quantised,
        "quantised-traced": lambda: torch.jit.trace(quantised(), example),
    }
    model = make[kind]()
    logits, _ = predict(model, random_batches())
    expected, _ = predict(eager, random_batches())
    if kind.startswith("quantised"):
        assert not torch.equal(logits, expected)
        torch.testing.assert_close(logits, expected, rtol=0.05, atol=0.05)
    else:
        torch.testing.assert_close(logits, expected)
    assert evaluate(model, random_batches(), NAMES).n_images == 24
    if kind == "scripted":
        assert model.training


def test_state_bytes_is_what_is_written(tmp_path):
    model = network()
    stream = io.BytesIO()
    torch.save(model.state_dict(), stream)
    assert state_bytes(model) == len(stream.getvalue())
    traced = torch.jit.trace(model.eval(), random_batches()[0][0])
    assert state_bytes(traced) == write_torchscript(traced, tmp_path / "model.pt").stat().st_size


def test_quantising_makes_the_state_smaller():
    layers = nn.Sequential(nn.Linear(400, 400))
    smaller = torch.ao.quantization.quantize_dynamic(layers, {nn.Linear}, dtype=torch.qint8)
    assert state_bytes(smaller) < state_bytes(layers) / 3


def test_latency_is_a_positive_time_on_one_thread_and_leaves_mode_and_threads():
    model, seen, threads = network().train(), set(), torch.get_num_threads()
    model.register_forward_hook(lambda *_: seen.add(torch.get_num_threads()))
    torch.set_num_threads(2)
    try:
        assert median_latency_ms(model, (1, 3, 8, 8)) > 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert seen == {1}
    assert model.training


def test_wilson_interval_of_known_values():
    # Newcombe 1998, Statistics in Medicine 17, table I, method 3: 81 of 263, and 0 of 20.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson_interval(20, 20)[1] == 1.0


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 3), (4, 3)])
def test_wilson_interval_of_nothing_is_an_error(successes, n):
    with pytest.raises(InputError):
        wilson_interval(successes, n)


def test_mcnemar_of_hand_computed_tables():
    # 1 image only A got right and 5 only B: 2 · (C(6,0) + C(6,1)) / 2^6
    a = [True, True, False, False, False, False, False, True, False]
    b = [True, False, True, True, True, True, True, True, False]
    assert mcnemar_p(a, b) == pytest.approx(2 * 7 / 64)
    assert mcnemar_p(b, a) == pytest.approx(2 * 7 / 64)
    assert mcnemar_p(a, a) == 1.0
    assert mcnemar_p(np.ones(10, bool), np.zeros(10, bool)) == pytest.approx(2 / 1024)


def test_mcnemar_refuses_answers_that_do_not_pair_up():
    with pytest.raises(InputError, match="pairs two answers"):
        mcnemar_p([True], [True, False])
    with pytest.raises(InputError, match="pairs two answers"):
        mcnemar_p([], [])
