"""Squeeze-and-Excitation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sesurgeon.blocks.gates import TwiceSigmoid

_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class SqueezeExcite(nn.Module):
    """``x * gate(fc2(relu(fc1(mean(x)))))``, the mean over all places (https://arxiv.org/abs/1709.01507, section 3).

    Parameters and their names are those of timm's ``SEModule`` (``fc1``, ``fc2``: convolutions of size 1 with
    biases), so that weights go both ways.

    Args:
        channels: of the tensor that is scaled.
        rd_channels: width of the squeezed layer between ``fc1`` and ``fc2``.
        spatial_dims: 1 for sequences, 2 for images, 3 for volumes and video.
        channel_dim: 1 where channels come first (N, C, ...), -1 where they come last (N, ..., C).
        identity: start as an exact identity with live gradients: gate ``2 * sigmoid``, ``fc2`` zero
            (``fc1`` stays random: with both zero nothing would train). Otherwise the paper's gate and
            PyTorch's initialisation.
    """

    def __init__(
        self,
        channels: int,
        rd_channels: int,
        *,
        spatial_dims: int = 2,
        channel_dim: int = 1,
        identity: bool = True,
    ) -> None:
        super().__init__()
        convolution = _CONVOLUTIONS[spatial_dims]
        self.channel_dim = channel_dim
        # Dimensions are counted from the back: with or without a batch in front.
        self.first = -(spatial_dims + 1)
        self.places = tuple(range(-spatial_dims, 0) if channel_dim == 1 else range(-spatial_dims - 1, -1))
        self.fc1 = convolution(channels, rd_channels, kernel_size=1)
        self.act = nn.ReLU(inplace=True)
        self.fc2 = convolution(rd_channels, channels, kernel_size=1)
        self.gate: nn.Module = TwiceSigmoid() if identity else nn.Sigmoid()
        if identity:
            for parameter in self.fc2.parameters():
                nn.init.zeros_(parameter)

    def excitation(self, x: Tensor) -> Tensor:
        """The factors by which ``x`` is scaled: as ``x``, but of size 1 in every spatial dimension."""
        squeezed = x.mean(self.places, keepdim=True)
        if self.channel_dim != 1:
            squeezed = torch.movedim(squeezed, -1, self.first)
        factors: Tensor = self.gate(self.fc2(self.act(self.fc1(squeezed))))
        return factors if self.channel_dim == 1 else torch.movedim(factors, self.first, -1)

    def forward(self, x: Tensor) -> Tensor:
        """Scale ``x`` of shape (N, C, *spatial), or (N, *spatial, C) for ``channel_dim=-1``; the shape stays.

        N may be missing.
        """
        return x * self.excitation(x)

    def extra_repr(self) -> str:
        return "" if self.channel_dim == 1 else f"channel_dim={self.channel_dim}"
