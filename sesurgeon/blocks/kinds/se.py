"""Squeeze-and-Excitation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sesurgeon.blocks.block import Squeezing, zero_
from sesurgeon.blocks.gates import GateName, TwiceSigmoid, ceiling_of, make_gate
from sesurgeon.blocks.kernel.excitation import Excitation, TwoLayers
from sesurgeon.blocks.kernel.pointwise import pointwise
from sesurgeon.blocks.layout import CONVOLUTIONS, Convolution, Layout, Squeeze

_SIGMOIDS = (nn.Sigmoid, TwiceSigmoid)


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

    def by_hand(self, x: Tensor, parameters: Sequence[Tensor]) -> Excitation | None:
        """On a CPU; elsewhere, and under autocast, autograd's way is as good or is not measured.

        The parts are as we made them, see :func:`scaled_by_mean`; but there may be another gate.
        """
        cpu = x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        if not (self.training and cpu and type(self) is SqueezeExcite and "factors" not in vars(self)):
            return None
        fc1, fc2, gate = self.fc1, self.fc2, type(self.gate)
        layers = isinstance(fc1, CONVOLUTIONS) and isinstance(fc2, CONVOLUTIONS)
        if not (layers and isinstance(self.act, nn.ReLU) and gate in _SIGMOIDS):
            return None
        read = (fc1.weight, fc1.bias, fc2.weight, fc2.bias)
        # in this order and no others: who takes a parametrization off a layer leaves its weight behind its bias
        all_of_them = len(parameters) == len(read) and all(a is b for a, b in zip(read, parameters, strict=True))
        usual = all_of_them and x.dim() == fc1.weight.dim() and all(one.dtype == x.dtype for one in parameters)
        return TwoLayers(ceiling_of(self.gate)) if usual else None

    def hidden(self) -> tuple[Convolution, Convolution] | None:
        return None if self.fc1.bias is None else (self.fc1, self.fc2)

    def readers(self) -> Sequence[Tensor]:
        return (self.fc1.weight,)
