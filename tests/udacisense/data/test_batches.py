import numpy as np
import pytest
import torch
from drawn_photos import numbered, random_photo
from torchvision.transforms import functional as tv

from udacisense.data.batches import Batches, normalise
from udacisense.data.images import MEAN, STD, Images
from udacisense.errors import InputError


def test_normalisation_is_torchvisions():
    photo = random_photo(10)
    pixels = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None]
    expected = tv.normalize(tv.to_tensor(photo), MEAN, STD)
    torch.testing.assert_close(normalise(pixels)[0], expected, rtol=0, atol=1e-6)


def test_plain_batches_give_the_images_in_order():
    images = numbered([4, 3])
    batches = Batches(images, batch_size=3)
    parts = list(batches)
    assert len(batches) == len(parts) == 3
    assert [len(labels) for _, labels in parts] == [3, 3, 1]
    assert torch.equal(torch.cat([x for x, _ in parts]), normalise(images.pixels))
    assert torch.equal(torch.cat([y for _, y in parts]), images.labels)


def flat(batches):
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


@pytest.fixture
def photos():
    generator = torch.Generator().manual_seed(0)
    return Images(torch.randint(0, 256, (50, 3, 32, 32), generator=generator, dtype=torch.uint8), torch.arange(50))


def test_an_epoch_depends_on_seed_and_epoch_and_not_on_history(photos):
    options = {"batch_size": 16, "shuffle": True, "augment": True, "seed": 5}
    through = Batches(photos, **options)
    for epoch in range(3):
        through.set_epoch(epoch)
        torch.rand(epoch + 1)  # the global generator has no part in it
        last = flat(through)
    resumed = Batches(photos, **options)
    resumed.set_epoch(2)
    torch.manual_seed(99)
    again = flat(resumed)
    assert torch.equal(last[0], again[0])
    assert torch.equal(last[1], again[1])
    resumed.set_epoch(1)
    assert not torch.equal(flat(resumed)[1], again[1])
    other = Batches(photos, **{**options, "seed": 6})
    other.set_epoch(2)
    assert not torch.equal(flat(other)[1], again[1])


def test_the_global_generator_is_left_alone(photos):
    torch.manual_seed(4)
    expected = torch.rand(1)
    torch.manual_seed(4)
    flat(Batches(photos, batch_size=8, shuffle=True, augment=True))
    assert torch.equal(torch.rand(1), expected)


def test_shuffling_gives_every_image_once_and_keeps_labels_with_images(photos):
    pixels, labels = flat(Batches(photos, batch_size=16, shuffle=True))
    assert sorted(labels.tolist()) == list(range(50)) != labels.tolist()
    assert torch.equal(pixels, normalise(photos.pixels[labels]))


def test_a_lone_last_image_joins_the_batch_before_when_shuffled():
    images = numbered([5, 4])
    shuffled = Batches(images, batch_size=4, shuffle=True)
    assert [len(y) for _, y in shuffled] == [4, 5]
    assert len(shuffled) == 2
    assert sorted(flat(shuffled)[1].tolist()) == images.labels.tolist()
    assert [len(y) for _, y in Batches(images, batch_size=4)] == [4, 4, 1]
    assert [len(y) for _, y in Batches(images, batch_size=1, shuffle=True)] == [1] * 9
    assert [len(y) for _, y in Batches(images.take(torch.arange(1)), batch_size=4, shuffle=True)] == [1]


def test_an_augmented_image_is_a_crop_of_the_reflected_image_flipped_or_not(photos):
    augmented, _ = flat(Batches(photos, batch_size=50, augment=True, seed=1))
    padded = torch.nn.functional.pad(normalise(photos.pixels), (4, 4, 4, 4), mode="reflect")
    seen = set()
    for i in range(50):
        matches = [
            (top, left, flipped)
            for top in range(9)
            for left in range(9)
            for flipped in (False, True)
            if torch.equal(
                augmented[i].flip(2) if flipped else augmented[i], padded[i, :, top : top + 32, left : left + 32]
            )
        ]
        assert len(matches) == 1, f"image {i} is no such crop"
        seen.add(matches[0])
    # each image has a fate of its own: both ends of the shift and both sides of the flip occur
    assert len(seen) > 25
    assert {f for _, _, f in seen} == {False, True}
    assert {t for t, _, _ in seen} == {left for _, left, _ in seen} == set(range(9))


def test_the_crop_grows_with_the_image():
    pixels = torch.randint(0, 256, (40, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    augmented, _ = flat(Batches(Images(pixels, torch.zeros(40, dtype=torch.int64)), batch_size=40, augment=True))
    padded = torch.nn.functional.pad(normalise(pixels), (8, 8, 8, 8), mode="reflect")
    far = 0
    for i in range(40):
        for flipped in (False, True):
            image = augmented[i].flip(2) if flipped else augmented[i]
            tops = [t for t in range(17) for s in range(17) if torch.equal(image, padded[i, :, t : t + 64, s : s + 64])]
            far += any(abs(t - 8) > 4 for t in tops)
    assert far > 5


def test_other_means_are_used():
    pixels, _ = next(iter(Batches(numbered([2, 2]), batch_size=4, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))))
    assert pixels[3, 0, 0, 0] == pytest.approx(3 / 255)


def test_impossible_batches_are_refused():
    with pytest.raises(InputError, match=r"batch size is 0; allowed is 1 or more\.$"):
        Batches(numbered([2, 2]), batch_size=0)
    with pytest.raises(InputError, match=r"^The seed is -1; allowed is 0 to 9223372036854775807\.$"):
        Batches(numbered([2, 2]), batch_size=1, seed=-1)
