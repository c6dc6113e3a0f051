"""Global Context."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from sesurgeon.blocks.block import Scaling, zero_
from sesurgeon.blocks.gates import GateName, make_gate
from sesurgeon.blocks.layout import Convolution, Layout
from sesurgeon.blocks.mlp import ConvMlp


class GlobalContext(Scaling):
    """``x * gate(fc2(relu(norm(fc1(sum_p softmax(conv_attn(x))_p x_p)))))`` (https://arxiv.org/abs/1904.11492).

    The squeeze is a mean over the places p with weights that attention gives them. As in timm's ``GlobalContext``,
    whose parameters these are, the context scales ``x``; in the paper it is added.

    ``conv_attn.bias`` cannot learn: the softmax does not see it. Neither can ``fc1`` where the squeezed layer has
    only one channel, since ``norm`` makes that constant; nor much of it where it has two.

    Args:
        channels: of the tensor that is scaled.
        rd_channels: width of the squeezed layer between ``fc1`` and ``fc2``.
        spatial_dims, channel_dim: see :class:`Layout`.
        identity: start as an exact identity with live gradients (``fc2`` zero); otherwise plain gate, random ``fc2``.
        gate: from logits to factors.
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
        self.layout = Layout(spatial_dims, channel_dim)
        self.conv_attn = self.layout.convolution(channels, 1)
        self.mlp_scale = ConvMlp(channels, rd_channels, self.layout, norm=True)
        self.gate = make_gate(gate, identity=identity)
        nn.init.kaiming_normal_(self.conv_attn.weight, mode="fan_in", nonlinearity="relu")
        if identity:
            zero_(self.mlp_scale.fc2)

    def excitation(self, x: Tensor) -> Tensor:
        """The factors by which ``x`` is scaled: as ``x``, but of size 1 in every spatial dimension."""
        factors: Tensor = self.gate(self.mlp_scale(self.context(self.layout.channels_first(x))))
        return self.layout.restored(factors)

    def context(self, x: Tensor) -> Tensor:
        """The attended mean (N, C, 1, ...) over the places of ``x`` (N, C, *places)."""
        first_place = self.layout.first + 1
        attention: Tensor = self.conv_attn(x).flatten(first_place).softmax(-1).unsqueeze(-1)
        context = x.flatten(first_place).unsqueeze(-3) @ attention
        return self.layout.at_one_place(context.squeeze(-3).squeeze(-1))

    def hidden(self) -> tuple[Convolution, Convolution] | None:
        return self.mlp_scale.fc1, self.mlp_scale.fc2

    def readers(self) -> Sequence[Tensor]:
        return (self.conv_attn.weight, self.mlp_scale.fc1.weight)
