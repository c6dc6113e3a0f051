"""Starting the hidden units of a block where they tell images apart.

Behind a BatchNorm a channel's mean over its places hardly varies between images. So the hidden units of a fresh block
are nearly constants: the ReLU passes them or not whatever the image, what the last layer learns from them is a constant
too, and the gate never depends on what it sees. Mean and deviation of each unit over real images, folded into the
layer before it, mend that (measured: benchmarks/calibration.md). The last layer stays zero and the block an exact
identity.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sesurgeon.blocks.block import Block
from sesurgeon.blocks.layout import Convolution

_ROUNDING = 1e-5  # of the mean: a smaller deviation may be that of float32


@dataclass(frozen=True, eq=False)
class UnitSums:
    """Sums over the values of hidden units, before the activation.

    Attributes:
        count: how many values of each unit were seen: one an image, or one a place where the excitation has places.
        total: their sum, shape (units,), float64.
        squares: the sum of their squares, likewise.
    """

    count: int
    total: Tensor
    squares: Tensor

    @classmethod
    def of(cls, values: Tensor) -> UnitSums:
        """The sums of a batch of shape (N, units, *places)."""
        rows = values.detach().movedim(1, -1).flatten(0, -2).cpu().double()
        return cls(len(rows), rows.sum(0), rows.square().sum(0))

    def plus(self, other: UnitSums) -> UnitSums:
        return UnitSums(self.count + other.count, self.total + other.total, self.squares + other.squares)

    @property
    def mean(self) -> Tensor:
        return self.total / self.count

    @property
    def std(self) -> Tensor:
        return (self.squares / self.count - self.mean.square()).clamp(min=0).sqrt()


def is_asleep(block: Block) -> bool:
    """Whether the hidden units of ``block`` have no effect yet, because the layer behind them is zero."""
    layers = block.hidden()
    return layers is not None and not any(bool(parameter.any()) for parameter in layers[1].parameters())


@torch.no_grad()
def standardise_(layer: Convolution, seen: UnitSums) -> None:
    """Give the outputs of ``layer`` zero mean and unit variance over what was seen of them, in place.

    A unit that gave the same for all images, up to rounding, stays as it is.

    Args:
        layer: a convolution with a bias.
        seen: sums over its outputs.
    """
    assert layer.bias is not None
    mean, std = seen.mean.to(layer.bias.device), seen.std.to(layer.bias.device)
    rows = (-1, *(1,) * (layer.weight.dim() - 1))
    weight = (layer.weight.double() / std.view(rows)).to(layer.weight.dtype)
    bias = ((layer.bias.double() - mean) / std).to(layer.bias.dtype)
    varies = (std > _ROUNDING * mean.abs()) & weight.flatten(1).isfinite().all(1) & bias.isfinite()
    layer.weight.copy_(torch.where(varies.view(rows), weight, layer.weight))
    layer.bias.copy_(torch.where(varies, bias, layer.bias))
