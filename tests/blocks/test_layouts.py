from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sesurgeon.blocks import BlockConfig, GatherExcite
from sesurgeon.blocks.kinds.ge import _avg_pool3d
from tests.blocks.cases import CASES, LAYOUTS, SQUEEZES, label, tensor, trained

ALL = [*CASES.values(), *SQUEEZES]


@pytest.mark.parametrize("spatial_dims", [1, 2, 3])
@pytest.mark.parametrize("config", ALL, ids=label)
def test_channels_in_the_last_dimension_give_what_channels_first_give(config: BlockConfig, spatial_dims: int) -> None:
    torch.manual_seed(0)
    first = trained(config, spatial_dims).double()
    last = trained(config, spatial_dims, channel_dim=-1).double()
    last.load_state_dict(first.state_dict())
    x = tensor(spatial_dims, dtype=torch.float64)
    torch.testing.assert_close(last(x.movedim(1, -1)).movedim(-1, 1), first(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("spatial_dims", "channel_dim"), LAYOUTS)
@pytest.mark.parametrize("config", ALL, ids=label)
def test_an_input_without_a_batch_gives_what_a_batch_of_one_gives(
    config: BlockConfig, spatial_dims: int, channel_dim: int
) -> None:
    torch.manual_seed(0)
    block = trained(config, spatial_dims, channel_dim).eval()
    x = tensor(spatial_dims, channel_dim)[0]
    assert block(x).shape == x.shape
    torch.testing.assert_close(block(x), block(x[None])[0])


@pytest.mark.parametrize("config", ALL, ids=label)
def test_an_image_is_a_volume_of_one_frame_and_a_sequence_an_image_of_one_row(config: BlockConfig) -> None:
    torch.manual_seed(0)
    volume, image = trained(config, 3).double().eval(), trained(config, 2).double().eval()
    x = tensor(2, dtype=torch.float64)
    # what a 7x7x7 kernel has before and after a lone frame meets nothing but padding
    middle = {
        key: value[:, :, 3] if value.shape[2:] == (7, 7, 7) else value for key, value in volume.state_dict().items()
    }
    image.load_state_dict({key: value.reshape(image.state_dict()[key].shape) for key, value in middle.items()})
    torch.testing.assert_close(volume(x[:, :, None])[:, :, 0], image(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(7, 7, 7), (9, 8, 11)])
def test_the_mean_of_a_neighbourhood_in_a_volume_is_pytorchs(size: tuple[int, int, int]) -> None:
    x = torch.randn(2, 3, *size).double()
    for extent in (2, 4):
        kernel, padding = 2 * extent - 1, extent - 1
        expected = F.avg_pool3d(x, kernel, extent, padding, count_include_pad=False)
        ours = _avg_pool3d(x, kernel, extent, padding, count_include_pad=False)
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("squeeze", ["avg", "max"])
@pytest.mark.parametrize("spatial_dims", [1, 2, 3])
def test_a_neighbourhood_may_be_larger_than_the_tensor(spatial_dims: int, squeeze: str) -> None:
    # then it is the whole tensor, and the block is the one that gathers all places
    torch.manual_seed(0)
    wide = trained(BlockConfig("ge", extent=8, squeeze=squeeze), spatial_dims).double()  # type: ignore[arg-type]
    whole = trained(BlockConfig("ge", squeeze=squeeze), spatial_dims).double()  # type: ignore[arg-type]
    whole.load_state_dict(wide.state_dict())
    x = tensor(spatial_dims, dtype=torch.float64)
    torch.testing.assert_close(wide(x), whole(x), rtol=1e-12, atol=1e-12)


def test_gather_excite_by_hand() -> None:
    # extent 2 over 1, 2, 3, 4: neighbourhoods of 3 around places 0 and 2, (1 + 2) / 2 and (2 + 3 + 4) / 3
    block = trained(BlockConfig("ge", extent=2), 1)
    x = torch.arange(1.0, 5.0).expand(1, 32, 4)
    assert isinstance(block, GatherExcite)
    assert torch.equal(block.gathered(x)[0, 0], torch.tensor([1.5, 3.0]))
    factors = block.excitation(x)
    assert torch.equal(factors[..., 0], factors[..., 1])
    assert torch.equal(factors[..., 2], factors[..., 3])
    assert not torch.equal(factors[..., 1], factors[..., 2])
