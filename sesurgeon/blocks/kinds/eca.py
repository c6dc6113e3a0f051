"""Efficient Channel Attention."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from sesurgeon.blocks.block import Squeezing, zero_
from sesurgeon.blocks.gates import GateName, make_gate
from sesurgeon.blocks.layout import Layout, Squeeze


class EfficientChannelAttention(Squeezing):
    """``x * gate(conv(squeeze(x)))``, the convolution running over the channels (https://arxiv.org/abs/1910.03151).

    Its only parameters are the k weights of that convolution, k an odd number near (log2(C) + 1) / 2. They are
    named and shaped as in timm's ``EcaModule``, whose k is at least 3.

    Args:
        channels: of the tensor that is scaled.
        spatial_dims, channel_dim: see :class:`Layout`.
        identity: start as an exact identity with live gradients (``conv`` zero); otherwise plain gate, random ``conv``.
        squeeze: the mean or the maximum.
        gate: from logits to factors.
    """

    def __init__(
        self,
        channels: int,
        *,
        spatial_dims: int = 2,
        channel_dim: int = 1,
        identity: bool = True,
        squeeze: Squeeze = "avg",
        gate: GateName = "sigmoid",
    ) -> None:
        super().__init__()
        self.layout = Layout(spatial_dims, channel_dim)
        self.squeeze: Squeeze = squeeze
        size = kernel_size(channels)
        self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)
        self.gate = make_gate(gate, identity=identity)
        if identity:
            zero_(self.conv)

    def factors(self, squeezed: Tensor) -> Tensor:
        sequence = squeezed.flatten(self.layout.first).unsqueeze(-2)
        factors: Tensor = self.gate(self.conv(sequence)).squeeze(-2)
        return self.layout.at_one_place(factors)

    def by_channel(self, factors: Tensor) -> Tensor:
        return factors.movedim(-1, 1)  # the gate's is a sequence of channels

    def readers(self) -> Sequence[Tensor]:
        return (self.conv.weight,)


def kernel_size(channels: int) -> int:
    """Over how many neighbouring channels the convolution reaches: odd, at least 3, as timm rounds it."""
    size = int(abs(math.log2(channels) + 1) / 2)
    return max(size if size % 2 else size + 1, 3)
