"""Convolutional Block Attention Module."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sesurgeon.blocks.block import Block, Scaling, oppose_, zero_
from sesurgeon.blocks.gates import GateName, make_gate
from sesurgeon.blocks.kernel.pointwise import pointwise
from sesurgeon.blocks.layout import Layout


class Cbam(Block):
    """``spatial(channel(x))``: which channels matter, then which places (https://arxiv.org/abs/1807.06521).

    Parameters, buffers and their names are those of timm's ``CbamModule``.

    Args:
        channels: of the tensor that is scaled.
        rd_channels: width of the squeezed layer of the channel attention.
        spatial_dims, channel_dim: see :class:`Layout`.
        identity: start as an exact identity with live gradients (``channel.fc2`` and the weight and bias of
            ``spatial.conv.bn`` zero, units of ``channel.fc1`` in opposite pairs); otherwise plain gates, random layers.
        gate: from logits to factors, of both.
    """

    def __init__(
        self,
        channels: int,
        rd_channels: int,
        *,
        spatial_dims: int = 2,
        channel_dim: int = 1,
        identity: bool = True,
        gate: GateName = "sigmoid",
    ) -> None:
        super().__init__()
        layout = Layout(spatial_dims, channel_dim)
        self.channel = ChannelAttention(channels, rd_channels, layout, make_gate(gate, identity=identity))
        self.spatial = SpatialAttention(layout, make_gate(gate, identity=identity))
        if identity:
            oppose_(self.channel.fc1)
            zero_(self.channel.fc2)
            zero_(self.spatial.conv.bn)

    def scalings(self) -> Sequence[Scaling]:
        return (self.channel, self.spatial)

    def forward(self, x: Tensor) -> Tensor:
        """Scale ``x`` of shape (N, C, *places), or (N, *places, C) for ``channel_dim=-1``; the shape stays.

        N may be missing.
        """
        scaled: Tensor = self.spatial(self.channel(x))
        return scaled


class ChannelAttention(Scaling):
    """``x * gate(mlp(mean(x)) + mlp(max(x)))``, mean and maximum over the places."""

    def __init__(self, channels: int, rd_channels: int, layout: Layout, gate: nn.Module) -> None:
        super().__init__()
        self.layout = layout
        self.fc1 = layout.convolution(channels, rd_channels, bias=False)
        self.act = nn.ReLU(inplace=True)
        self.fc2 = layout.convolution(rd_channels, channels, bias=False)
        self.gate = gate

    def excitation(self, x: Tensor) -> Tensor:
        """The factors by which ``x`` is scaled: as ``x``, but of size 1 in every spatial dimension."""
        of_mean = self.logits(self.layout.squeezed(x, "avg"))
        of_max = self.logits(self.layout.squeezed(x, "max"))
        return self.layout.restored(self.gate(of_mean + of_max))

    def logits(self, squeezed: Tensor) -> Tensor:
        """From the mean or maximum of each channel, before the gate."""
        return pointwise(self.fc2, self.act(pointwise(self.fc1, squeezed)))

    def readers(self) -> Sequence[Tensor]:
        return (self.fc1.weight,)


class SpatialAttention(Scaling):
    """``x * gate(bn(conv([mean(x); max(x)])))``, mean and maximum over the channels, kernel 7.

    The batch normalisation is not in the paper; its authors' code and timm have it.
    """

    def __init__(self, layout: Layout, gate: nn.Module) -> None:
        super().__init__()
        self.layout = layout
        self.conv = ConvNorm(2, 1, 7, layout)
        self.gate = gate

    def excitation(self, x: Tensor) -> Tensor:
        """The factors by which ``x`` is scaled: as ``x``, but with one channel."""
        dim = self.layout.channels
        described = torch.cat([x.mean(dim, keepdim=True), x.amax(dim, keepdim=True)], dim)
        logits = self.layout.batched(self.conv, self.layout.channels_first(described))
        return self.layout.restored(self.gate(logits))

    def readers(self) -> Sequence[Tensor]:
        return (self.conv.conv.weight,)


class ConvNorm(nn.Module):
    """``bn(conv(x))``, named as in timm's ``ConvNormAct``."""

    def __init__(self, channels: int, out_channels: int, kernel_size: int, layout: Layout) -> None:
        super().__init__()
        self.conv = layout.convolution(channels, out_channels, kernel_size, bias=False)
        self.bn = layout.batch_norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """From (N, C, *places) to (N, C', *places)."""
        normed: Tensor = self.bn(self.conv(x))
        return normed
