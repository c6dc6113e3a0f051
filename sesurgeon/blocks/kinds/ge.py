"""Gather-Excite."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sesurgeon.blocks.block import Scaling, oppose_, zero_
from sesurgeon.blocks.gates import GateName, make_gate
from sesurgeon.blocks.layout import Convolution, Layout, Squeeze
from sesurgeon.blocks.mlp import ConvMlp


def _avg_pool3d(x: Tensor, kernel_size: int, stride: int, padding: int, count_include_pad: bool) -> Tensor:
    """As ``F.avg_pool3d``, which refuses volumes smaller than the kernel, and half precision on CPUs.

    The mean of a box is the mean over its frames of their means, the count of padded places too.
    """
    frames = F.avg_pool2d(x.flatten(-2), (kernel_size, 1), (stride, 1), (padding, 0), False, count_include_pad)
    planes = torch.unflatten(frames.flatten(-3, -2), -1, (x.shape[-2], x.shape[-1]))
    means = F.avg_pool2d(planes, kernel_size, stride, padding, False, count_include_pad)
    return torch.unflatten(means, -3, (frames.shape[-3], frames.shape[-2]))


_MEANS: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: _avg_pool3d}
_MAXIMA: dict[int, Callable[..., Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


class GatherExcite(Scaling):
    """``x * gate(interpolate(fc2(relu(fc1(gather(x))))))`` (https://arxiv.org/abs/1810.12348).

    The gather has no parameters: it is the mean or maximum over neighbourhoods of 2e - 1 places in steps of the
    extent e, or over all places where e is 0, which makes it SE. What comes of it is spread to the places of ``x`` by
    nearest neighbours. Parameters and their names are those of timm's ``GatherExcite`` with its defaults.

    Args:
        channels: of the tensor that is scaled.
        rd_channels: width of the squeezed layer between ``fc1`` and ``fc2``.
        spatial_dims, channel_dim: see :class:`Layout`.
        identity: start as an exact identity with live gradients (``fc2`` zero, units of ``fc1`` in opposite
            pairs); otherwise plain gate, random layers.
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
            oppose_(self.mlp.fc1)
            zero_(self.mlp.fc2)

    def excitation(self, x: Tensor) -> Tensor:
        """The factors by which ``x`` is scaled: as ``x``, or of size 1 in every spatial dimension for extent 0."""
        logits = self.mlp(self.gathered(x))
        if self.extent:
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

    def hidden(self) -> tuple[Convolution, Convolution] | None:
        return self.mlp.fc1, self.mlp.fc2

    def readers(self) -> Sequence[Tensor]:
        return (self.mlp.fc1.weight,)

    def extra_repr(self) -> str:
        return f"squeeze={self.squeeze}, extent={self.extent}, {super().extra_repr()}"
