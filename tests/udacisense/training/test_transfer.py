from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from training_cases import SIZE_PX, coloured

from udacisense.data import Images
from udacisense.errors import InputError
from udacisense.training.losses import NO_LABEL, distillation_loss
from udacisense.training.transfer import TransferBatches, load_transfer


def unlabelled(n: int) -> Images:
    return Images(coloured(n, seed=9).pixels, torch.full((n,), NO_LABEL))


def mixed(**changes: float) -> TransferBatches:
    settings: dict[str, float] = {"batch_size": 4, "ratio": 2.0, "labelled_views": 3, "transfer_views": 2, **changes}
    return TransferBatches(coloured(8, seed=1), unlabelled(32), **settings)  # type: ignore[arg-type]


def epoch(batches: TransferBatches, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    batches.set_epoch(number)
    parts = list(batches)
    assert len(parts) == len(batches)
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def test_an_epoch_has_every_labelled_image_and_its_share_of_the_others() -> None:
    labels = epoch(mixed(), 0)[1]
    assert len(labels) == 24
    assert int((labels == NO_LABEL).sum()) == 16
    assert torch.equal(labels[labels != NO_LABEL].sort().values, (torch.arange(8) % 3).sort().values)


def test_transfer_images_take_turns() -> None:
    batches = mixed(transfer_views=1)
    seen = []
    for number in range(2):
        images, labels = epoch(batches, number)
        seen.append({row.numpy().tobytes() for row in images[labels == NO_LABEL]})
    assert not seen[0] & seen[1]  # 32 images, 16 an epoch
    assert len(seen[0] | seen[1]) == 32


def test_views_come_round_again_and_differ_before() -> None:
    batches = mixed()

    def labelled(number: int) -> set[bytes]:
        images, labels = epoch(batches, number)
        return {row.numpy().tobytes() for row in images[labels != NO_LABEL]}

    assert labelled(0) == labelled(3) == labelled(6)
    assert labelled(0) != labelled(1)


def test_an_epoch_depends_on_seed_and_number_alone() -> None:
    whole = [epoch(mixed(), number)[0] for number in range(3)]
    assert torch.equal(epoch(mixed(), 2)[0], whole[2])
    assert not torch.equal(epoch(mixed(seed=1), 2)[0], whole[2])


@pytest.mark.parametrize("changes", [{"batch_size": 0}, {"ratio": 0.0}, {"ratio": float("nan")}, {"labelled_views": 0}])
def test_numbers_without_meaning_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(InputError, match="allowed are"):
        mixed(**changes)


def test_sets_of_different_size_are_refused() -> None:
    small = Images(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.full((2,), NO_LABEL))
    with pytest.raises(InputError, match="at one size"):
        TransferBatches(coloured(8, seed=1), small, batch_size=4)


def test_a_folder_of_any_depth_is_read(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    colours = {"one.png": (255, 0, 0), "a/two.jpg": (0, 255, 0), "a/b/three.png": (0, 0, 255)}
    for name, colour in colours.items():
        Image.new("RGB", (40, 20), colour).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    found = load_transfer(tmp_path, size_px=SIZE_PX)
    assert found.pixels.shape == (3, 3, SIZE_PX, SIZE_PX)
    assert set(found.labels.tolist()) == {NO_LABEL}
    assert sorted(np.argmax(found.pixels.float().mean((2, 3)).numpy(), axis=1)) == [0, 1, 2]


def test_a_folder_without_images_or_with_a_broken_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no folder"):
        load_transfer(tmp_path / "none", size_px=8)
    with pytest.raises(InputError, match="holds no image"):
        load_transfer(tmp_path, size_px=8)
    (tmp_path / "bad.png").write_bytes(b"no")
    with pytest.raises(InputError, match=r"bad\.png"):
        load_transfer(tmp_path, size_px=8)


def test_images_without_a_label_count_for_the_teacher_alone() -> None:
    student, teacher = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    labels = torch.tensor([0, NO_LABEL])
    hard = distillation_loss(student, teacher, labels, temperature=2.0, alpha=0.0)
    assert hard.item() == pytest.approx(float(np.log1p(np.exp(-2.0))), rel=1e-6)
    nobody = distillation_loss(student, teacher, torch.full((2,), NO_LABEL), temperature=2.0, alpha=0.5)
    everybody = distillation_loss(student, teacher, labels, temperature=2.0, alpha=1.0)
    assert nobody.item() == pytest.approx(0.5 * everybody.item(), rel=1e-6)
