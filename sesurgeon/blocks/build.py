"""From a block's settings to the module."""

from __future__ import annotations

from typing import Any

from sesurgeon.blocks.block import Block
from sesurgeon.blocks.catalogue import KINDS, WIDTH
from sesurgeon.blocks.config import BlockConfig


def build_block(config: BlockConfig, channels: int, *, spatial_dims: int = 2, channel_dim: int = 1) -> Block:
    """The block that ``config`` describes, for a tensor of ``channels`` channels.

    Args:
        config: its kind and settings.
        channels: of the tensor that is scaled.
        spatial_dims, channel_dim: of that tensor, see :class:`Layout`.

    Raises:
        UsageError: a layout for which there are no blocks.
    """
    kind = KINDS[config.block]
    settings: dict[str, Any] = {name: getattr(config, name) for name in kind.settings if name not in WIDTH}
    width = config.squeezed(channels)
    if width is not None:
        settings["rd_channels"] = width
    return kind.module(
        channels,
        spatial_dims=spatial_dims,
        channel_dim=channel_dim,
        identity=config.init == "identity" and not config.plain,
        gate=config.gate or kind.gate,
        **settings,
    )
