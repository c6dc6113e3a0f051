"""Squeeze-and-Excitation."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from sesurgeon.blocks.block import Squeezing, zero_
from sesurgeon.blocks.gates import GateName, make_gate
from sesurgeon.blocks.layout import Convolution, Layout, Squeeze
from sesurgeon.blocks.pointwise import pointwise


class SqueezeExcite(Squeezing):
    """``x * gate(fc2(relu(fc1(squeeze(x)))))``, the squeeze over all places (https://arxiv.org/abs/1709.01507).

    Parameters and their names are those of timm's ``SEModule`` (``fc1``, ``fc2``: convolutions of size 1), so that
    weights go both ways.

    Args:
        channels: of the tensor that is scaled.
        rd_channels: width of the squeezed layer between ``fc1`` and ``fc2``.
        spatial_dims, channel_dim: see :class:`Layout`.
        identity: start as an exact identity with live gradients: a gate that is 1 at zero, ``fc2`` zero
            (``fc1`` stays random: with both zero nothing would train). Otherwise the paper's gate and
            PyTorch's initialisation.
        bias: whether ``fc1`` and ``fc2`` have biases.
        squeeze: the mean (section 3.1), or the maximum (section 6.2).
        gate: sigmoid (section 3.2), or another (section 6.3).
    """

    def __init__(
        self,
        channels: int,
        rd_channels: int,
        *,
        spatial_dims: int = 2,
        channel_dim: int = 1,
        identity: bool = True,
        bias: bool = True,
        squeeze: Squeeze = "avg",
        gate: GateName = "sigmoid",
    ) -> None:
        super().__init__()
        self.layout = Layout(spatial_dims, channel_dim)
        self.squeeze: Squeeze = squeeze
        self.fc1 = self.layout.convolution(channels, rd_channels, bias=bias)
        self.act = nn.ReLU(inplace=True)
        self.fc2 = self.layout.convolution(rd_channels, channels, bias=bias)
        self.gate = make_gate(gate, identity=identity)
        if identity:
            zero_(self.fc2)

    def factors(self, squeezed: Tensor) -> Tensor:
        factors: Tensor = self.gate(pointwise(self.fc2, self.act(pointwise(self.fc1, squeezed))))
        return factors

    def hidden(self) -> tuple[Convolution, Convolution] | None:
        return None if self.fc1.bias is None else (self.fc1, self.fc2)

    def readers(self) -> Sequence[Tensor]:
        return (self.fc1.weight,)
