"""From a block's settings to the module."""

from __future__ import annotations

from torch import nn

from sesurgeon.blocks.config import BlockConfig
from sesurgeon.blocks.se import SqueezeExcite


def build_block(config: BlockConfig, channels: int, *, spatial_dims: int = 2, channel_dim: int = 1) -> nn.Module:
    """The block that ``config`` describes, for a tensor of ``channels`` channels (see :class:`SqueezeExcite`)."""
    return SqueezeExcite(
        channels,
        config.squeezed(channels) or 1,
        spatial_dims=spatial_dims,
        channel_dim=channel_dim,
        identity=config.init == "identity",
    )
