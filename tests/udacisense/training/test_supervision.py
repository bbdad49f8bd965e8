from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from training_cases import CLASSES, SIZE_PX, build, coloured, held_back, mobilenet_spec, tiny_spec

from udacisense.data.images import NO_LABEL, Images, make_signature
from udacisense.errors import InputError
from udacisense.training import Auxiliary, Distillation, Keep, TrainConfig, train
from udacisense.training.checkpoint import state_sha256
from udacisense.training.losses import blended_cross_entropy
from udacisense.training.supervision import Supervision, load_supervision
from udacisense.training.teachers import Rows
from udacisense.training.transfer import TransferBatches, folder_classes

CONFIG = TrainConfig(epochs=3, learning_rate=1e-2, warmup_epochs=0)
SIGNATURE = make_signature(CLASSES, size_px=SIZE_PX)


def transfer() -> Images:
    others = coloured(48, seed=9)
    return Images(others.pixels, torch.full((48,), NO_LABEL))


def batches(**changes: object) -> TransferBatches:
    labelled = coloured(24, seed=1)
    folders = folder_classes(labelled.labels, CLASSES, ["red", "sky", "wood"] * 16)
    settings: dict[str, object] = {"batch_size": 12, "ratio": 1.0, "mix": 0.5, "folders": folders, **changes}
    return TransferBatches(labelled, transfer(), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "given",
    [
        {"temperature": 0.0},
        {"temperature": float("nan")},
        {"alpha": 2.0},
        {"transfer_ratio": -1.0},
        {"transfer_ratio": float("inf")},
        {"mix": float("nan"), "transfer": Path("photos")},
        {"auxiliary_weight": -1.0},
    ],
)
def test_a_number_out_of_range_is_refused_before_anything_is_read(given: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(given))):
        Supervision(**given)  # type: ignore[arg-type]


def test_how_a_teacher_counts_says_nothing_without_one() -> None:
    with pytest.raises(InputError, match="how a teacher counts, and there is none"):
        load_supervision(Supervision(alpha=0.5), SIGNATURE, is_taught=False)


def test_a_folder_that_is_called_as_a_class_is_that_class() -> None:
    numbers, count = folder_classes(torch.tensor([2, 0]), CLASSES, ["sky", "red", "wood", "sky"])
    assert numbers.tolist() == [2, 0, 3, 0, 4, 3]
    assert count == 5
    with pytest.raises(InputError, match="lie in one folder, 'all'"):
        folder_classes(torch.tensor([0]), CLASSES, ["all", "all"])


def test_the_loss_of_a_blend_is_blended_by_its_shares() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
    labels = torch.tensor([[0, 1], [2, NO_LABEL]])
    shares = torch.tensor([0.75, 0.5])
    log = logits.log_softmax(1)
    expected = -(0.75 * log[0, 0] + 0.25 * log[0, 1] + 0.5 * log[1, 2]) / 1.5
    assert blended_cross_entropy(logits, labels, shares).item() == pytest.approx(expected.item(), rel=1e-6)


def test_auxiliary_heads_teach_and_are_gone_afterwards() -> None:
    teacher = build(mobilenet_spec(), seed=4)
    plain = train(build(tiny_spec()), batches(folders=None), config=CONFIG)
    taught = train(
        build(tiny_spec()), batches(), config=CONFIG, auxiliary=Auxiliary(folders=True, teacher=teacher, remember=True)
    )
    assert taught.model.state_dict().keys() == plain.model.state_dict().keys() == build(tiny_spec()).state_dict().keys()
    name = "features.0.0.weight"
    assert not torch.equal(taught.model.state_dict()[name], plain.model.state_dict()[name])
    assert not list(taught.model.classifier._forward_pre_hooks)


def test_a_head_alone_teaches_the_features() -> None:
    """The model's own head gets no gradient from what a head beside it learns; the features do."""
    frozen = build(tiny_spec())
    for parameter in frozen.classifier.parameters():
        parameter.requires_grad_(False)
    silent = Distillation(teacher=lambda images: frozen.eval()(images).detach(), temperature=1.0, alpha=1.0)
    source = batches(mix=0.0)
    rates = {}
    for weight in (1e-6, 10.0):
        config = TrainConfig(epochs=1, optimizer="sgd", momentum=0.0, weight_decay=0.0, warmup_epochs=0)
        heads = Auxiliary(folders=True, weight=weight)
        result = train(frozen, source, config=config, distillation=silent, auxiliary=heads)
        key = "features.0.0.weight"
        rates[weight] = (result.model.state_dict()[key] - frozen.state_dict()[key]).abs().mean().item()
    assert rates[10.0] > 2 * rates[1e-6]


@pytest.mark.parametrize("remember", [True, False])
def test_a_model_that_is_both_teachers_is_asked_once_and_teaches_the_same(remember: bool) -> None:
    general = build(mobilenet_spec(), seed=4)
    asked: list[int] = []
    general.register_forward_hook(lambda *_: asked.append(1))

    def taught(teacher: nn.Module, auxiliary: nn.Module) -> tuple[str, int]:
        asked.clear()
        result = train(
            build(tiny_spec()),
            batches(),
            config=CONFIG,
            distillation=Distillation(teacher=teacher, temperature=2.0, alpha=0.9, remember=remember),
            auxiliary=Auxiliary(teacher=auxiliary, temperature=2.0, remember=remember),
        )
        return state_sha256(result.model), len(asked)

    rows = [2, 0, 1]
    together, n_together = taught(Rows(general, rows), general)
    apart, n_apart = taught(Rows(copy.deepcopy(general), rows), general)
    assert together == apart
    assert n_apart - 1 == 2 * (n_together - 1)  # one of them to count the head's classes


class Interrupted(TransferBatches):
    def __iter__(self):
        for step, batch in enumerate(super().__iter__()):
            if self.epoch == 2 and step == 1:
                raise KeyboardInterrupt
            yield batch


def test_heads_and_kept_answers_are_resumed_bit_by_bit(tmp_path: Path) -> None:
    def run(source: TransferBatches, folder: Path | None) -> str:
        result = train(
            build(tiny_spec()),
            source,
            config=CONFIG,
            validation=held_back(),
            distillation=Distillation(teacher=build(tiny_spec(), seed=7), temperature=3.0, alpha=0.5, remember=True),
            auxiliary=Auxiliary(folders=True, weight=3.0),
            keep=None if folder is None else Keep(folder=folder, resume=True),
        )
        return state_sha256(result.model)

    interrupted = batches()
    interrupted.__class__ = Interrupted
    with pytest.raises(KeyboardInterrupt):
        run(interrupted, tmp_path)
    assert run(batches(), tmp_path) == run(batches(), None)


def test_a_model_without_a_classifier_has_no_place_for_a_head() -> None:
    nameless = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * SIZE_PX**2, 3))
    with pytest.raises(InputError, match="Sequential has no module of that name"):
        train(nameless, batches(), config=CONFIG, auxiliary=Auxiliary(folders=True))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"mix": 0.5}, "mix = 0.5 needs transfer images"),
        ({"transfer_labels": "folders"}, "transfer_labels = folders needs transfer images"),
        ({"views": 4}, "views = 4 needs transfer images"),
        ({"views": 0, "transfer": Path()}, "views is 0"),
    ],
)
def test_what_needs_transfer_images_is_refused_without_them(asked: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Supervision(**asked)  # type: ignore[arg-type]


def test_transfer_images_that_nobody_speaks_about_are_refused(tmp_path: Path) -> None:
    asked = Supervision(transfer=tmp_path)
    with pytest.raises(InputError, match="nobody says what they show"):
        load_supervision(asked, SIGNATURE, is_taught=False)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (20, 20), "red").save(tmp_path / name / "one.png")
    labelled = Supervision(transfer=tmp_path, transfer_labels="folders", mix=0.5)
    sources = load_supervision(labelled, SIGNATURE, is_taught=False)
    made = sources.batches(coloured(24, seed=1), SIGNATURE, batch_size=8, seed=0)
    assert made.n_folders == 5
    assert made.n_rows is None, "without a teacher every epoch has new views"
    assert sources.identity != load_supervision(asked, SIGNATURE, is_taught=True).identity
