from __future__ import annotations

import pytest
import torch

from sesurgeon.blocks import SqueezeExcite


@pytest.mark.parametrize("channel_dim", [1, -1])
@pytest.mark.parametrize("spatial", [(9,), (5, 7), (3, 5, 7)])
def test_an_input_without_a_batch_gives_what_a_batch_of_one_gives(spatial: tuple[int, ...], channel_dim: int) -> None:
    torch.manual_seed(0)
    block = SqueezeExcite(6, 4, spatial_dims=len(spatial), channel_dim=channel_dim, identity=False)
    x = torch.randn((6, *spatial) if channel_dim == 1 else (*spatial, 6))
    assert block(x).shape == x.shape
    torch.testing.assert_close(block(x), block(x[None])[0])
