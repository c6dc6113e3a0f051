"""Gather-Excite."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor

from sesurgeon.blocks.block import Scaling, zero_
from sesurgeon.blocks.gates import GateName, make_gate
from sesurgeon.blocks.layout import Layout, Squeeze
from sesurgeon.blocks.mlp import ConvMlp

_MEANS: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_MAXIMA: dict[int, Callable[..., Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


class GatherExcite(Scaling):
    """``x * gate(interpolate(fc2(relu(fc1(gather(x))))))`` (GE-theta-minus with an MLP, https://arxiv.org/abs/1810.12348).

    The gather is the mean or maximum over neighbourhoods of 2e - 1 places in steps of the extent e (section 2.1), or
    over all places where e is 0; its result is spread to the places of ``x`` by nearest neighbours. The MLP is that
    of section 3.3. Parameters and their names are those of timm's ``GatherExcite`` with its defaults.

    Args:
        channels: of the tensor that is scaled.
        rd_channels: width of the squeezed layer between ``fc1`` and ``fc2``.
        spatial_dims, channel_dim: see :class:`Layout`.
        identity: start as an exact identity with live gradients (``fc2`` zero); otherwise plain gate, random ``fc2``.
        squeeze: the mean or the maximum.
        gate: from logits to factors.
        extent: 0 for all places, or the step between neighbourhoods.
    """

    def __init__(
        self,
        channels: int,
        rd_channels: int,
        *,
        spatial_dims: int = 2,
        channel_dim: int = 1,
        identity: bool = True,
        squeeze: Squeeze = "avg",
        gate: GateName = "sigmoid",
        extent: int = 0,
    ) -> None:
        super().__init__()
        self.layout = Layout(spatial_dims, channel_dim)
        self.squeeze: Squeeze = squeeze
        self.extent = extent
        self.mlp = ConvMlp(channels, rd_channels, self.layout)
        self.gate = make_gate(gate, identity=identity)
        if identity:
            zero_(self.mlp.fc2)

    def excitation(self, x: Tensor) -> Tensor:
        """The factors by which ``x`` is scaled: as ``x``, or of size 1 in every spatial dimension for extent 0."""
        logits = self.mlp(self.gathered(x))
        if any(size != 1 for size in logits.shape[self.layout.first + 1 :]):
            places = [x.shape[place] for place in self.layout.places]
            logits = self.layout.batched(lambda batch: F.interpolate(batch, places), logits)
        return self.layout.restored(self.gate(logits))

    def gathered(self, x: Tensor) -> Tensor:
        """One number a channel and neighbourhood, channels first."""
        if self.extent == 0:
            return self.layout.squeezed(x, self.squeeze)
        first = self.layout.channels_first(x)
        kernel = {"kernel_size": 2 * self.extent - 1, "stride": self.extent, "padding": self.extent - 1}
        if self.squeeze == "max":
            return _MAXIMA[self.layout.spatial_dims](first, **kernel)
        return _MEANS[self.layout.spatial_dims](first, **kernel, count_include_pad=False)

    def readers(self) -> Sequence[Tensor]:
        return (self.mlp.fc1.weight,)

    def extra_repr(self) -> str:
        return f"squeeze={self.squeeze}, extent={self.extent}, channel_dim={self.layout.channel_dim}"
