import pytest
import torch
from torch import nn

from udacisense.base.records import ModelSpec
from udacisense.errors import InputError
from udacisense.measure.counts import count_macs, count_parameters
from udacisense.models.blocks import Block, Residual, parse_blocks
from udacisense.models.build import build_model

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def network(blocks, **options):
    return build_model(ModelSpec(architecture="blocks", options={"blocks": blocks, **options})).eval()


def test_a_line_is_read_block_by_block_and_a_repeated_one_strides_once():
    first, again = parse_blocks("i24x3k5s2*2")
    assert first == Block(kind="i", channels=24, kernel=5, stride=2, expansion=3)
    assert again == Block(kind="i", channels=24, kernel=5, stride=1, expansion=3)
    assert parse_blocks("c16 p64") == [Block(kind="c", channels=16), Block(kind="p", channels=64)]


def test_parameters_are_those_counted_by_hand():
    # stem 3·16·9 + BN 32; expand 16·32 + 64; depthwise 32·25 + 64; project 32·16 + 32; linear 16·10 + 10
    by_hand = (3 * 16 * 9 + 32) + (16 * 32 + 64) + (32 * 25 + 64) + (32 * 16 + 32) + (16 * 10 + 10)
    assert count_parameters(network("c16 i16x2k5")) == by_hand
    # depthwise 16·9 + BN 32, pointwise 16·24 + BN 48
    assert count_parameters(network("c16 d24")) - count_parameters(network("c16")) == 16 * 9 + 32 + 16 * 24 + 48 + 80


def test_strides_make_the_maps_smaller():
    assert network("c8s2 d16s2 i16s2").features(IMAGES).shape == (2, 16, 4, 4)
    assert count_macs(network("c8"), (1, 3, 32, 32)) > 3 * count_macs(network("c8s2"), (1, 3, 32, 32))


@pytest.mark.parametrize(
    ("block", "is_added"), [("i16", True), ("d16", True), ("i16s2", False), ("i24", False), ("c16", False)]
)
def test_a_block_that_keeps_channels_and_size_adds_its_input(block, is_added):
    last = network(f"c16 {block}").features[1]
    assert isinstance(last, Residual) == is_added
    if is_added:
        maps = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(last(maps), maps + last.block(maps))


def test_an_inverted_residual_ends_without_relu_and_all_else_with_one():
    def last_of(blocks):
        return list(network(blocks).features.modules())[-1]

    assert isinstance(last_of("c16 i24"), nn.BatchNorm2d)
    assert all(isinstance(last_of(f"c16 {block}"), nn.ReLU) for block in ("d24", "p24", "c24"))


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ("c16 z24", "'z24' cannot be read"),
        ("c16 p24k3", "'p24k3' cannot be read"),
        ("c16 d24x2", "'d24x2' cannot be read"),
        ("c16 i24k4", "kernel k of the block 'i24k4' is out of range; allowed is 1, 3, 5 or 7"),
        ("c16 i24s3", "stride s"),
        ("c16 i24x17", "expansion x"),
        ("c0", "channels"),
        ("c16*0", "repetitions"),
        ("c16*201", "repetitions"),
        ("", "0 blocks; allowed are 1 to 200"),
        ("c16*200 c16", "201 blocks"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(blocks, message):
    with pytest.raises(InputError, match="could not be built") as refused:
        network(blocks)
    assert message in str(refused.value)


def test_other_images_are_resized_to_the_networks_edge():
    assert network("c8 d8", resolution_px=16, size_px=32).resize(IMAGES).shape[2:] == (16, 16)
