"""Networks of torchvision and timm by name; their downloads are not tried here."""

import os

import pytest
import torch
from torch import fx

from udacisense.base.records import ModelSpec
from udacisense.errors import InputError
from udacisense.models.build import build_model, preset
from udacisense.models.libraries import network_facts, trained_state
from udacisense.models.weights import initialise, plain_state

TIMM = "timm/test_efficientnet"


def small(name: str, **options):
    return preset(name, num_classes=3, size_px=32, resolution_px=options.pop("resolution_px", None), options=options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("torchvision/shufflenet_v2_x0_5", {}),
        ("torchvision/mobilenet_v3_small", {"width_mult": 0.5}),
        (TIMM, {"drop_rate": 0.1}),
        ("timm/test_vit", {"resolution_px": 96}),
    ],
)
def test_a_librarys_network_is_fitted_to_the_data_and_resizes_what_it_is_fed(name, options):
    pytest.importorskip("timm")
    spec = small(name, **options)
    model = build_model(spec).eval()
    images = torch.randn(2, 3, 32, 32)
    seen = []
    first = next(m for m in model.modules() if isinstance(m, torch.nn.Conv2d))
    first.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[-1]))
    with torch.no_grad():
        answers = model(images)
    assert answers.shape == (2, 3)
    assert seen == [options.get("resolution_px") or network_facts(spec).resolution_px]
    assert all(m.momentum >= 0.1 for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))


def test_its_weights_keep_the_librarys_names_and_fx_can_trace_it():
    torchvision = pytest.importorskip("torchvision")
    model = build_model(small("torchvision/shufflenet_v2_x0_5")).eval()
    assert model.state_dict().keys() == torchvision.models.shufflenet_v2_x0_5().state_dict().keys()
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(fx.symbolic_trace(model)(images), model(images))


def test_each_network_has_its_own_mean_std_and_resolution():
    pytest.importorskip("timm")
    facts = network_facts(small("timm/mobilevit_xxs"))
    assert (facts.resolution_px, facts.mean, facts.std) == (256, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert facts.licence is not None
    facts = network_facts(small("torchvision/inception_v3"))
    assert (facts.resolution_px, facts.interpolation) == (299, "bilinear")
    facts = network_facts(preset("tiny"))
    assert (facts.resolution_px, facts.weights) == (128, None)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("torchvision/mobilenet_v3_smal", {}, "no classifier 'mobilenet_v3_smal'.*mobilenet_v3_small"),
        ("timm/mobilenetv4_conv_smal", {}, "mobilenetv4_conv_small"),
        (TIMM, {"checkpoint_path": "weights.pth"}, "takes no --option checkpoint_path"),
        (TIMM, {"num_classes": 7}, "takes no --option num_classes"),
        (TIMM, {"no_such_thing": 7}, "could not be built.*no_such_thing"),
        ("tiny", {"no_such_thing": 7}, "no option 'no_such_thing'"),
    ],
)
def test_what_a_library_has_not_is_refused_in_a_sentence(name, options, words):
    pytest.importorskip("timm")
    with pytest.raises(InputError, match=words):
        build_model(small(name, **options))


def test_a_record_cannot_make_a_library_read_a_file():
    pytest.importorskip("timm")
    for options in ({"checkpoint_path": "x.pth"}, {"pretrained": True}):
        with pytest.raises(InputError, match="takes no option"):
            build_model(ModelSpec(architecture=TIMM, options=options))


def test_trained_weights_leave_the_classifier_fresh_and_read_tensors_alone(monkeypatch):
    timm = pytest.importorskip("timm")
    original, asked = timm.create_model, []

    def create(name, *, pretrained=False, **options):
        asked.append((pretrained, os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")))
        model = original(name, **options)
        if pretrained:
            torch.nn.init.constant_(model.conv_stem.weight, 7.0)
        return model

    monkeypatch.setattr(timm, "create_model", create)
    spec = small(TIMM)
    model = build_model(spec)
    initialise(model, "pretrained", spec)
    assert plain_state(model)["conv_stem.weight"].eq(7).all()
    assert asked == [(False, "1"), (True, "1")]
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_without_network_or_without_weights_it_is_one_sentence(monkeypatch):
    timm = pytest.importorskip("timm")

    def create(name, **options):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(timm, "create_model", create)
    with pytest.raises(InputError, match=r"could not be downloaded \(ConnectionError: no route to host\)"):
        trained_state(small(TIMM))
    with pytest.raises(InputError, match="no trained weights of timm/convnext_atto_rms"):
        trained_state(small("timm/convnext_atto_rms"))
