"""Effective Squeeze-and-Excitation."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sesurgeon.blocks.block import Squeezing, zero_
from sesurgeon.blocks.gates import GateName, make_gate
from sesurgeon.blocks.kernel.pointwise import pointwise
from sesurgeon.blocks.layout import Layout, Squeeze


class EffectiveSqueezeExcite(Squeezing):
    """``x * gate(fc(squeeze(x)))``: SE without a narrow layer (CenterMask, https://arxiv.org/abs/1911.06667).

    Parameters and their names are those of timm's ``EffectiveSEModule``; so is the hard sigmoid.

    Args:
        channels: of the tensor that is scaled.
        spatial_dims, channel_dim: see :class:`Layout`.
        identity: start as an exact identity with live gradients (``fc`` zero); otherwise plain gate, random ``fc``.
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
        gate: GateName = "hard-sigmoid",
    ) -> None:
        super().__init__()
        self.layout = Layout(spatial_dims, channel_dim)
        self.squeeze: Squeeze = squeeze
        self.fc = self.layout.convolution(channels, channels)
        self.gate = make_gate(gate, identity=identity)
        if identity:
            zero_(self.fc)

    def factors(self, squeezed: Tensor) -> Tensor:
        factors: Tensor = self.gate(pointwise(self.fc, squeezed))
        return factors

    def readers(self) -> Sequence[Tensor]:
        return (self.fc.weight,)
