from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from training_cases import SIZE_PX, coloured

from udacisense.data.images import MEAN, NO_LABEL, STD, Images
from udacisense.errors import InputError
from udacisense.training.losses import distillation_loss
from udacisense.training.transfer import TransferBatches, load_transfer


def unlabelled(n: int) -> Images:
    return Images(coloured(n, seed=9).pixels, torch.full((n,), NO_LABEL))


def mixed(**changes: object) -> TransferBatches:
    settings: dict[str, object] = {"batch_size": 4, "ratio": 2.0, "views": (3, 2), **changes}
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
    batches = mixed(views=(3, 1))
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


@pytest.mark.parametrize("changes", [{"batch_size": 0}, {"ratio": 0.0}, {"ratio": float("nan")}, {"views": (0, 1)}])
def test_numbers_without_meaning_are_refused(changes: dict[str, object]) -> None:
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
    found, folders = load_transfer(tmp_path, size_px=SIZE_PX)
    assert found.pixels.shape == (3, 3, SIZE_PX, SIZE_PX)
    assert set(found.labels.tolist()) == {NO_LABEL}
    assert folders == ("b", "a", tmp_path.name)
    assert sorted(np.argmax(found.pixels.float().mean((2, 3)).numpy(), axis=1)) == [0, 1, 2]


def test_a_folder_without_images_or_with_a_broken_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no folder"):
        load_transfer(tmp_path / "none", size_px=8)
    with pytest.raises(InputError, match="holds no image"):
        load_transfer(tmp_path, size_px=8)
    (tmp_path / "bad.png").write_bytes(b"no")
    with pytest.raises(InputError, match=r"bad\.png"):
        _ = load_transfer(tmp_path, size_px=8)[0].pixels


def test_images_without_a_label_count_for_the_teacher_alone() -> None:
    student, teacher = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    labels = torch.tensor([0, NO_LABEL])
    hard = distillation_loss(student, teacher, labels, temperature=2.0, alpha=0.0)
    assert hard.item() == pytest.approx(float(np.log1p(np.exp(-2.0))), rel=1e-6)
    nobody = distillation_loss(student, teacher, torch.full((2,), NO_LABEL), temperature=2.0, alpha=0.5)
    everybody = distillation_loss(student, teacher, labels, temperature=2.0, alpha=1.0)
    assert nobody.item() == pytest.approx(0.5 * everybody.item(), rel=1e-6)


def pixels(images: torch.Tensor) -> torch.Tensor:
    return (images * torch.tensor(STD).view(1, 3, 1, 1) + torch.tensor(MEAN).view(1, 3, 1, 1)) * 255


def test_blended_images_lie_between_two_others_and_have_no_label() -> None:
    """All images are of one colour each, so that a blend is a colour on the line between two of them."""
    colours = torch.tensor([[0, 0, 0], [200, 100, 0], [0, 0, 250]], dtype=torch.uint8)
    flat = Images(colours.view(3, 3, 1, 1).expand(-1, -1, 8, 8).contiguous(), torch.arange(3))
    others = Images(torch.full((3, 3, 8, 8), 255, dtype=torch.uint8), torch.full((3,), NO_LABEL))
    batches = TransferBatches(flat, others, batch_size=6, ratio=1.0, mix=0.5)
    ends = torch.cat([colours, torch.full((1, 3), 255)]).double()
    n_blended = 0
    for number in range(20):
        images, labels = epoch(batches, number)
        for colour, label in zip(pixels(images).mean((2, 3)).double(), labels.tolist(), strict=True):
            if label != NO_LABEL:
                torch.testing.assert_close(colour, ends[label], rtol=0, atol=0.01)
                continue
            n_blended += bool(((colour - ends).abs().amax(1) > 1).all())
            on_a_line = [
                bool(((colour - torch.lerp(a, b, _share(colour, a, b))).abs() <= 1).all()) for a in ends for b in ends
            ]
            assert any(on_a_line)
    assert 20 <= n_blended <= 80  # about half of 120, less those whose partner was the same or whose λ was near 0 or 1


def _share(colour: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> float:
    length = float(((b - a) ** 2).sum())
    return float(((colour - a) * (b - a)).sum()) / length if length else 0.0


def test_blended_views_come_round_again_too() -> None:
    batches = mixed(mix=1.0)
    images, labels = epoch(batches, 1)
    again = epoch(batches, 1 + 3 * 2 * 2)[0]  # 3 labelled views, 2 turns of the transfer images, 2 views of those
    assert set(labels.tolist()) == {NO_LABEL}
    assert {row.numpy().tobytes() for row in images} & {row.numpy().tobytes() for row in again}


@pytest.mark.parametrize("mix", [-0.1, 1.5, float("nan")])
def test_a_fraction_to_mix_outside_0_to_1_is_refused(mix: float) -> None:
    with pytest.raises(InputError, match="0 to 1 to mix"):
        mixed(mix=mix)
