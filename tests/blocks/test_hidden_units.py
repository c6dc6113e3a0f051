"""Hidden units that start where they tell images apart, in blocks that still change nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sesurgeon.blocks import BlockConfig, UnitSums, build_block, is_asleep, standardise_

WITH_UNITS = [
    BlockConfig("se"),
    BlockConfig("se", squeeze="max", gate="tanh"),
    BlockConfig("ge", rd_channels=4),
    BlockConfig("ge", rd_channels=4, extent=2),
    BlockConfig("gc", rd_channels=4),
]
WITHOUT = [BlockConfig("se", bias=False), BlockConfig("ese"), BlockConfig("eca"), BlockConfig("cbam")]


@pytest.fixture
def images() -> Tensor:
    """Of which the means differ little from image to image, as behind a BatchNorm."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(64, 16, 6, 6, generator=generator) + 3 + 0.1 * torch.randn(64, 16, 1, 1, generator=generator)


@pytest.mark.parametrize("config", WITH_UNITS, ids=str)
def test_units_get_zero_mean_and_unit_variance_and_outputs_stay(config: BlockConfig, images: Tensor) -> None:
    torch.manual_seed(0)
    block = build_block(config, 16)
    layers = block.hidden()
    assert layers is not None
    seen: list[UnitSums] = []
    layers[0].register_forward_hook(lambda layer, inputs, values: seen.append(UnitSums.of(values)))
    before = block(images)
    standardise_(layers[0], seen[0])
    after = block(images)
    assert torch.equal(before, after)
    assert torch.equal(after, images)
    assert float(seen[0].std.max()) < 0.5  # so that there was something to do
    torch.testing.assert_close(seen[-1].mean, torch.zeros_like(seen[-1].mean), rtol=0, atol=1e-4)
    torch.testing.assert_close(seen[-1].std, torch.ones_like(seen[-1].std), rtol=1e-3, atol=0)


def test_sums_of_parts_are_those_of_the_whole() -> None:
    values = torch.tensor([[1.0, 5.0], [3.0, 5.0], [8.0, 5.0]])
    sums = UnitSums.of(values[:1]).plus(UnitSums.of(values[1:]))
    assert sums.count == 3
    assert sums.mean.tolist() == [4.0, 5.0]
    assert sums.std.tolist() == pytest.approx([(26 / 3) ** 0.5, 0.0])
    places = UnitSums.of(values.t()[None])  # an image with two units at three places
    assert (places.count, places.mean.tolist()) == (3, [4.0, 5.0])


def test_a_unit_that_is_the_same_for_all_images_stays_as_it_is() -> None:
    layer = torch.nn.Conv2d(4, 2, 1)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    values = torch.stack([torch.arange(8.0), torch.full((8,), 3.0) + 1e-6 * torch.arange(8.0)], 1)
    standardise_(layer, UnitSums.of(values))
    assert torch.equal(layer.weight[1], weight[1])
    assert torch.equal(layer.bias[1], bias[1])
    torch.testing.assert_close(layer.weight[0], weight[0] / values[:, 0].std(correction=0))


@pytest.mark.parametrize("config", WITHOUT, ids=str)
def test_what_has_no_hidden_units_or_cannot_shift_them_says_so(config: BlockConfig) -> None:
    block = build_block(config, 16)
    assert block.hidden() is None
    assert not is_asleep(block)


@pytest.mark.parametrize("config", WITH_UNITS, ids=str)
def test_a_block_sleeps_until_its_last_layer_moves(config: BlockConfig) -> None:
    block = build_block(config, 16)
    assert is_asleep(block)
    with torch.no_grad():
        block.hidden()[1].bias[3] = 1e-3  # type: ignore[index]
    assert not is_asleep(block)


def test_a_random_block_does_not_sleep() -> None:
    assert not is_asleep(build_block(BlockConfig("se", init="random"), 16))
