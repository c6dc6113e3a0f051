"""Which dimensions of a tensor are places and which one is channels: the geometry that all blocks share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from sesurgeon.errors import UsageError

Squeeze = Literal["avg", "max"]

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d

_CONVOLUTIONS: dict[int, type[Convolution]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
CONVOLUTIONS = tuple(_CONVOLUTIONS.values())
_BATCH_NORMS: dict[int, type[BatchNorm]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
BATCH_NORMS = tuple(_BATCH_NORMS.values())
_SQUEEZES: dict[Squeeze, Callable[..., Tensor]] = {"avg": torch.mean, "max": torch.amax}


@dataclass(frozen=True)
class Layout:
    """Layout of the tensors that a block scales.

    Dimensions are counted from the back, so that all this holds with and without a batch in front.

    Attributes:
        spatial_dims: 1 for sequences, 2 for images, 3 for volumes and video.
        channel_dim: 1 where channels come first (N, C, *places), -1 where they come last (N, *places, C).

    Raises:
        UsageError: a layout other than these.
    """

    spatial_dims: int = 2
    channel_dim: int = 1

    def __post_init__(self) -> None:
        if self.spatial_dims not in _CONVOLUTIONS or self.channel_dim not in (1, -1):
            raise UsageError(
                f"A block cannot scale a tensor of spatial_dims (={self.spatial_dims}) "
                f"and channel_dim (={self.channel_dim}).",
                hint="Supported are 1, 2 and 3 spatial dimensions, and channels first (1) or last (-1).",
            )

    @property
    def first(self) -> int:
        """The dimension of channels where they come first."""
        return -self.spatial_dims - 1

    @property
    def channels(self) -> int:
        """The dimension of channels in the block's input."""
        return self.first if self.channel_dim == 1 else -1

    @property
    def places(self) -> tuple[int, ...]:
        """The dimensions of places in the block's input."""
        return tuple(range(self.first, 0)[1:] if self.channel_dim == 1 else range(self.first, -1))

    def channels_first(self, x: Tensor) -> Tensor:
        """``x`` of the block's input layout as (N, C, *places); a view."""
        return x if self.channel_dim == 1 else torch.movedim(x, -1, self.first)

    def restored(self, factors: Tensor) -> Tensor:
        """The inverse of :meth:`channels_first`."""
        return factors if self.channel_dim == 1 else torch.movedim(factors, self.first, -1)

    def squeezed(self, x: Tensor, how: Squeeze = "avg") -> Tensor:
        """The mean or the maximum over all places of ``x``, channels first: (N, C, 1, ...)."""
        return self.channels_first(_SQUEEZES[how](x, self.places, keepdim=True))

    def batched(self, function: Callable[[Tensor], Tensor], channels_first: Tensor) -> Tensor:
        """``function``, which needs a batch, of a tensor that may lack one.

        The proxies that torch.fx traces with have no number of dimensions; they stand for a batch.
        """
        if isinstance(channels_first, Tensor) and channels_first.dim() == self.spatial_dims + 1:
            return function(channels_first[None])[0]
        return function(channels_first)

    def at_one_place(self, channels: Tensor) -> Tensor:
        """(N, C) as (N, C, 1, ...)."""
        index = (..., *(None,) * self.spatial_dims)
        return channels[index]

    def convolution(self, channels: int, out_channels: int, kernel_size: int = 1, *, bias: bool = True) -> Convolution:
        """A convolution over (N, C, *places) that keeps the number of places."""
        build = _CONVOLUTIONS[self.spatial_dims]
        return build(channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias)

    def batch_norm(self, channels: int) -> BatchNorm:
        """Batch normalisation over (N, C, *places)."""
        return _BATCH_NORMS[self.spatial_dims](channels)
