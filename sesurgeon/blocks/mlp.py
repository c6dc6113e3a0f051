"""The two layers between the squeezed channels and the gate, as timm's ``ConvMlp`` has them."""

from __future__ import annotations

from torch import Tensor, nn

from sesurgeon.blocks.kernel.pointwise import pointwise
from sesurgeon.blocks.layout import Layout


class ConvMlp(nn.Module):
    """``fc2(relu(norm(fc1(z))))`` at every place, by convolutions of size 1.

    Args:
        channels: of input and output.
        hidden: width between the layers.
        layout: of the tensor that the block scales.
        norm: normalise the hidden channels of each place (a LayerNorm).
    """

    def __init__(self, channels: int, hidden: int, layout: Layout, *, norm: bool = False) -> None:
        super().__init__()
        self.fc1 = layout.convolution(channels, hidden)
        self.norm: nn.Module = ChannelNorm(hidden, layout) if norm else nn.Identity()
        self.act = nn.ReLU()
        self.fc2 = layout.convolution(hidden, channels)

    def forward(self, z: Tensor) -> Tensor:
        """From (N, C, *places) to the same shape."""
        logits: Tensor = pointwise(self.fc2, self.act(self.norm(pointwise(self.fc1, z))))
        return logits


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (N, C, *places), as timm's ``LayerNorm2d``."""

    def __init__(self, channels: int, layout: Layout) -> None:
        super().__init__(channels, eps=1e-6)
        self.layout = layout

    def forward(self, z: Tensor) -> Tensor:
        first = self.layout.first
        return super().forward(z.movedim(first, -1)).movedim(-1, first)
