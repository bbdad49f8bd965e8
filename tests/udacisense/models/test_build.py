import sys

import pytest
import torch
from torch import nn

from udacisense.base.records import ModelSpec, from_json, to_json
from udacisense.errors import InputError
from udacisense.measure.counts import count_macs, count_parameters
from udacisense.models.build import MODELS, PRESETS, build_model, preset
from udacisense.models.layers import Resize

PARAMETERS = {
    "baseline": 1_528_106,
    "p1-student": 1_077_290,
    "p1-slim": 444_706,
    "tiny": 40_474,
    "p2-student": 40_418,
}
IMAGES = (2, 3, 32, 32)


@pytest.fixture(scope="module", params=PRESETS)
def built(request):
    torch.manual_seed(0)
    return request.param, build_model(preset(request.param, resolution_px=64)).eval()


@pytest.fixture
def images():
    return torch.randn(IMAGES, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items())
def test_a_preset_has_its_exact_parameter_count(name, parameters):
    assert count_parameters(build_model(preset(name))) == parameters


def test_every_preset_is_a_row_and_has_a_known_count():
    assert set(PRESETS) == set(PARAMETERS)
    assert {spec.architecture for spec in PRESETS.values()} <= set(MODELS)
    assert min(PARAMETERS["tiny"], PARAMETERS["p2-student"]) >= 39_500
    assert max(PARAMETERS["tiny"], PARAMETERS["p2-student"]) <= 42_000


def test_a_spec_survives_json_and_builds_the_same_network(built):
    name, model = built
    spec = preset(name, resolution_px=64)
    torch.manual_seed(0)
    again = build_model(from_json(ModelSpec, to_json(spec), source="spec"))
    assert again.state_dict().keys() == model.state_dict().keys()
    for key, value in again.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[key], rtol=0, atol=0)


def test_tracing_and_fx_give_the_models_own_answer(built, images):
    _, model = built
    with torch.no_grad():
        expected = model(images)
        assert expected.shape == (2, 10)
        torch.testing.assert_close(torch.jit.trace(model, images)(images), expected)
        torch.testing.assert_close(torch.fx.symbolic_trace(model)(images), expected)


def test_the_traced_model_takes_another_batch_size(built, images):
    _, model = built
    with torch.no_grad():
        traced = torch.jit.trace(model, images[:1])
        torch.testing.assert_close(traced(images), model(images))


def test_weights_are_named_features_and_classifier_only(built):
    assert {key.split(".")[0] for key in built[1].state_dict()} == {"features", "classifier"}


def test_every_convolution_has_its_bias_folded_into_a_batchnorm(built):
    # squeeze-and-excitation has no BatchNorm, and so keeps its biases
    convolutions = [(n, m) for n, m in built[1].named_modules() if isinstance(m, nn.Conv2d)]
    assert convolutions
    assert not [name for name, module in convolutions if module.bias is not None and ".fc" not in name]


def test_every_preset_learns_one_batch_by_heart(built):
    name, _ = built
    torch.manual_seed(0)
    model = build_model(preset(name, num_classes=4, resolution_px=48))
    images, labels = torch.randn(8, 3, 32, 32), torch.arange(8) % 4
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(30):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.2
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_resize_is_bilinear_without_aligned_corners():
    pixels = torch.tensor([[0.0, 4.0]]).expand(1, 1, 2, 2)
    # each output pixel's centre lies a quarter of an input pixel beside an input centre
    torch.testing.assert_close(Resize(4)(pixels)[0, 0, 0], torch.tensor([0.0, 1.0, 3.0, 4.0]))


def test_there_is_no_resize_where_the_images_have_the_resolution():
    assert isinstance(build_model(preset("tiny", resolution_px=64, size_px=64)).resize, nn.Identity)
    assert isinstance(build_model(preset("baseline")).resize, Resize)
    assert isinstance(build_model(preset("tiny", resolution_px=64)).resize, Resize)


def test_tiny_sees_small_images_as_they_are_and_large_ones_at_its_resolution():
    """Its first block works on a quarter of the resolution, whatever the image's size."""
    for size_px, resolution_px, resized_px in ((32, 128, None), (224, 128, 128), (32, 256, 64), (32, 96, 96)):
        model = build_model(preset("tiny", size_px=size_px, resolution_px=resolution_px)).eval()
        assert getattr(model.resize, "resolution_px", None) == resized_px
        first_map = model.features[:2](model.resize(torch.zeros(1, 3, size_px, size_px)))
        assert first_map.shape[-1] == resolution_px // 4


def test_enlarging_and_striding_are_one_small_convolution():
    """What tiny's stem stands on: enlargement by 4 and stride 4 see 3×3 pixels of the image, alike everywhere."""
    torch.manual_seed(0)
    kernel = torch.randn(5, 3, 5, 5, dtype=torch.float64)

    def strided(image: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv2d(Resize(4 * image.shape[-1])(image), kernel, stride=4, padding=1)

    impulses = torch.zeros(3, 3, 9, 9, dtype=torch.float64)
    for channel in range(3):
        impulses[channel, channel, 4, 4] = 1
    answers = strided(impulses)
    assert answers[:, :, 3:6, 3:6].abs().sum() == answers.abs().sum()
    folded = answers[:, :, 3:6, 3:6].flip(2, 3).transpose(0, 1)
    image = torch.randn(1, 3, 9, 9, dtype=torch.float64)
    inner = torch.nn.functional.conv2d(image, folded)
    torch.testing.assert_close(strided(image)[:, :, 1:-1, 1:-1], inner)


def test_width_mult_really_narrows_the_features():
    slim, full = build_model(preset("p1-slim")), build_model(preset("p1-student"))
    # six times the last block: 96 · 0.6 = 57.6 channels, to the nearest multiple of 8
    assert slim.classifier[0].in_features == 6 * 56
    assert full.classifier[0].in_features == 576


def test_macs_of_a_hand_counted_network():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(4 * 8 * 8, 5))
    model.train()
    assert count_macs(model, (1, 3, 8, 8)) == 8 * 8 * 4 * 27 + 256 * 5
    assert model.training


def test_macs_count_the_networks_own_resolution():
    assert count_macs(build_model(preset("tiny")), (1, 3, 32, 32)) == 6_800_640
    assert count_macs(build_model(preset("tiny", resolution_px=256)), (1, 3, 32, 32)) > 6_800_640 * 3.9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: preset("huge"), "no model preset 'huge'; choose one of baseline, p1-student, p1-slim, tiny"),
        (lambda: preset("tiny", num_classes=1), "at least 2 classes, got 1"),
        (lambda: preset("tiny", resolution_px=0), "resolution_px is 0; allowed is 8 to 4096"),
        (lambda: preset("tiny", size_px=5000), "size_px is 5000"),
        (lambda: preset("tiny", width_mult=0.5), "'tiny' has no width multiplier"),
        (lambda: preset("baseline", width_mult=0.0), "width multiplier is 0.0; allowed is 0.1 to 2"),
        (lambda: build_model(ModelSpec(architecture="resnet", options={})), "no architecture 'resnet'"),
        (
            lambda: build_model(ModelSpec(architecture="depthwise_separable", options={"colour": 1})),
            "could not be built .* unexpected keyword argument 'colour'",
        ),
        (
            lambda: build_model(ModelSpec(architecture="no_such_package:make", options={})),
            "'no_such_package' .* cannot be imported .ModuleNotFoundError",
        ),
        (lambda: build_model(ModelSpec(architecture="json:make", options={})), "'json'.* has no function 'make'"),
        (lambda: build_model(ModelSpec(architecture="json:dumps", options={"obj": 1})), "json:dumps returned str"),
    ],
)
def test_wrong_specs_are_one_sentence(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_factory_of_another_package_is_built(tmp_path, monkeypatch):
    (tmp_path / "my_networks.py").write_text(
        "from torch import nn\ndef make(width):\n    return nn.Sequential(nn.Flatten(), nn.Linear(12, width))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_networks", raising=False)
    model = build_model(ModelSpec(architecture="my_networks:make", options={"width": 7}))
    assert model(torch.zeros(1, 3, 2, 2)).shape == (1, 7)


def test_a_factory_module_that_raises_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "broken_networks.py").write_text("raise RuntimeError('on purpose')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"RuntimeError: on purpose"):
        build_model(ModelSpec(architecture="broken_networks:make", options={}))


def test_short_training_leaves_usable_running_statistics() -> None:
    """Some hundred steps must be enough for eval mode to answer as train mode does."""
    torch.manual_seed(0)
    model = build_model(preset("p1-slim", resolution_px=32))
    images = torch.randn(32, 3, 32, 32)
    trained = model.features.train()
    with torch.no_grad():
        for _ in range(150):
            in_training = trained(images)
        in_use = trained.eval()(images)
    # With torchvision's momentum of 0.01 a twentieth is left: every image then gets the same answer.
    assert in_use.std() > 0.5 * in_training.std()
