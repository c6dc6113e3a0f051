"""One block of every kind, in every layout, and what it is given."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sesurgeon.blocks import Block, BlockConfig, GateName, build_block

CASES = {
    "se": BlockConfig("se"),
    "se-without-bias": BlockConfig("se", bias=False),
    "ese": BlockConfig("ese"),
    "eca": BlockConfig("eca"),
    "cbam": BlockConfig("cbam"),
    "gc": BlockConfig("gc"),
    "ge": BlockConfig("ge"),
    "ge-extent": BlockConfig("ge", extent=2),
}
"""Every parameter list that a block can have, each with timm's own settings."""

SQUEEZES = [
    *(BlockConfig(block, squeeze=squeeze) for block in ("se", "ese", "eca", "ge") for squeeze in ("avg", "max")),
    *(BlockConfig("ge", extent=4, squeeze=squeeze) for squeeze in ("avg", "max")),
    BlockConfig("cbam"),
    BlockConfig("gc"),
]

GATES: tuple[GateName, ...] = ("sigmoid", "hard-sigmoid", "tanh")
LAYOUTS = [(spatial_dims, channel_dim) for spatial_dims in (1, 2, 3) for channel_dim in (1, -1)]
CHANNELS = 32


def label(value: object) -> str | None:
    """A short name for a test's case."""
    if not isinstance(value, BlockConfig):
        return None
    return "-".join(str(setting) for setting in value.to_dict().values())


def tensor(spatial_dims: int = 2, channel_dim: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    """Noise of odd and even sizes, smaller than some neighbourhoods."""
    places = (5, 4, 3)[:spatial_dims]
    shape = (3, CHANNELS, *places) if channel_dim == 1 else (3, *places, CHANNELS)
    return torch.randn(shape).to(dtype)


def trained(config: BlockConfig, spatial_dims: int = 2, channel_dim: int = 1) -> Block:
    """A block with no weight and no statistic at its start value."""
    block = build_block(config, CHANNELS, spatial_dims=spatial_dims, channel_dim=channel_dim)
    scramble(block)
    return block


def scramble(module: nn.Module) -> None:
    """Give every parameter and statistic another value."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.3)
        for buffer in module.buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.5, 1.5)
