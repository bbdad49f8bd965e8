from __future__ import annotations

import pytest
import torch
from training_cases import CLASSES, SIZE_PX, batches, build, mobilenet_spec, step_context, tiny_spec

from udacisense.errors import InputError, TrainingError
from udacisense.measure.counts import count_macs, count_parameters
from udacisense.measure.recording import parameter_counts
from udacisense.models.build import build_model
from udacisense.models.widths import fitted_spec
from udacisense.stages.prune import Sparsity, apply_magnitude_pruning, apply_structured_pruning

CONTEXT = step_context(batches(32))


def weights(model: torch.nn.Module) -> torch.Tensor:
    chosen = [m.weight for m in model.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    return torch.cat([w.detach().flatten() for w in chosen])


@pytest.mark.parametrize("epochs", [0, 2])
def test_the_smallest_weights_of_the_whole_network_become_zero(epochs: int) -> None:
    model = build(tiny_spec())
    result = apply_magnitude_pruning(model, CONTEXT, amount=0.3, epochs=epochs)
    before, after = weights(model), weights(result.model)
    assert (after == 0).double().mean().item() == pytest.approx(0.3, abs=1e-3)
    if not epochs:
        gone = before[after == 0].abs()
        assert gone.max() <= before[after != 0].abs().min()
    assert parameter_counts(result.model)[0] == parameter_counts(model)[0]  # dense: nothing is smaller
    assert result.model.state_dict().keys() == model.state_dict().keys()


def test_the_record_says_where_the_zeros_are_and_what_gzip_makes_of_them() -> None:
    model = build(tiny_spec())
    found = [apply_magnitude_pruning(model, CONTEXT, amount=a) for a in (0.1, 0.8)]
    layers = [result.documents["sparsity"] for result in found]
    assert all(isinstance(entry, Sparsity) for entry in layers)
    shares = [{row.layer: row.zero_fraction for row in entry.layers} for entry in layers]  # type: ignore[attr-defined]
    assert shares[0].keys() == shares[1].keys()
    assert all(shares[0][name] <= shares[1][name] for name in shares[0])
    assert found[1].notes["gzip_bytes"] < found[0].notes["gzip_bytes"]  # type: ignore[operator]


def test_channels_go_and_the_network_is_really_smaller() -> None:
    model = build(mobilenet_spec())
    result = apply_structured_pruning(model, CONTEXT, amount=0.4, epochs=1)
    shape = CONTEXT.input_shape
    assert count_parameters(result.model) < 0.8 * count_parameters(model)
    assert count_macs(result.model, shape) < 0.9 * count_macs(model, shape)
    images = torch.rand(2, 3, SIZE_PX, SIZE_PX)
    assert result.model(images).shape == (2, len(CLASSES))
    again = build_model(fitted_spec(mobilenet_spec(), result.model, model)).eval()
    again.load_state_dict(result.model.state_dict())
    assert torch.equal(again(images), result.model(images))


def test_a_network_that_loses_no_channel_is_no_result() -> None:
    narrow = torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(6, 3),
    )
    with pytest.raises(TrainingError, match="removed nothing: 189 parameters before and after") as caught:
        apply_structured_pruning(narrow, CONTEXT, amount=0.3, epochs=0)
    assert caught.value.exit_code == 1


class Rows(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.fc = torch.nn.LSTM(3 * SIZE_PX, 16, batch_first=True), torch.nn.Linear(16, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.lstm(images.permute(0, 2, 1, 3).flatten(2))[0][:, -1])


def test_a_network_that_cannot_be_followed_is_one_sentence() -> None:
    with pytest.raises(TrainingError, match=r"cannot narrow this network \(.+\); prune by magnitude"):
        apply_structured_pruning(Rows(), CONTEXT, amount=0.3, epochs=0)


def test_zeros_that_would_not_stay_are_refused() -> None:
    computed = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv2d(3, 8, 3))
    with pytest.raises(InputError, match="weight of 1 is computed from others"):
        apply_magnitude_pruning(torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), computed), CONTEXT, amount=0.3)


@pytest.mark.parametrize("stage", [apply_magnitude_pruning, apply_structured_pruning])
@pytest.mark.parametrize("options", [{"amount": 1.0}, {"amount": 0.0}, {"amount": float("nan")}, {"epochs": -1}])
def test_settings_without_meaning_are_refused(stage, options: dict[str, float]) -> None:
    with pytest.raises(InputError, match="allowed is"):
        stage(build(tiny_spec()), CONTEXT, **options)
