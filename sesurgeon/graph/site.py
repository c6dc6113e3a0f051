"""A place where a block can go."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sesurgeon.graph.candidates import SiteKind
from sesurgeon.paths import is_within


@dataclass(frozen=True)
class Site:
    """A tensor in the forward of one module, after which a block can go.

    Attributes:
        id: ``OWNER:KIND`` (``.:KIND`` in the model itself), with ``#2``, ``#3``… from the second of a kind in one owner
            on; the same each time.
        owner: path of the module whose forward would be rewritten; "" for the model itself.
        kind: see :class:`sesurgeon.graph.candidates.Candidate`.
        follows: what gives the tensor: a child of the owner (``bn3``), an argument, or the operation (``cat``).
        tensor: name of the tensor: two sites of one tensor differ in its users ("fork", "shortcut"), or not at all.
        shape: of the tensor, on the example inputs, batch included.
        channel_dim: 1 where its channels come first, -1 where they come last.
        stride: the input's width over the tensor's; of tokens, the root of the one area over the other.
        has_skip: a residual branch with a shortcut beside it.
        summed: and joined with it by a sum or a difference.
        residual: id of the "residual" that a "fork", "shortcut" or "sum" belongs to.
        convolution: path of the convolution of a "conv".
        kernel_size, depthwise: of that convolution.
        branch: paths of the modules that compute the tensor.
        attention: path of the module that gates this branch already; None where nothing does.
        calls: how often the owner runs in one forward pass; the block would be shared as the owner is.
        shapes: of the tensor in each of these calls: a detector's head runs on maps of several sizes.
        returned: of a "conv": the tensor is an output of the network and no feature map: it is squashed into a range
            (sigmoid, tanh) or has no more channels than an image, and nothing more is computed from it. Of a
            "residual": it corrects the network's own input, an image, and their sum is the output.
    """

    id: str
    owner: str
    kind: SiteKind
    follows: str
    tensor: str
    shape: tuple[int, ...]
    channel_dim: int
    stride: float
    has_skip: bool
    summed: bool
    residual: str | None
    convolution: str | None
    kernel_size: tuple[int, ...]
    depthwise: bool
    branch: tuple[str, ...]
    attention: str | None
    calls: int
    shapes: tuple[tuple[int, ...], ...]
    returned: bool

    @property
    def channels(self) -> int:
        """How many channels the tensor has that would be scaled."""
        return self.shape[self.channel_dim]

    @property
    def spatial(self) -> tuple[int, ...]:
        """Its places: (height, width), with a depth before them in 3-D, one length in 1-D."""
        return self.shape[2:] if self.channel_dim == 1 else self.shape[1:-1]

    @property
    def stage(self) -> int:
        """The paper's stage, by stride: 2 to 5 are the strides 4, 8, 16 and 32."""
        return max(0, round(math.log2(self.stride)))

    def computes(self, other: Site) -> bool:
        """Whether ``other`` lies in a module on this site's branch."""
        return self._holds(other.owner)

    def computes_with(self, other: Site) -> bool:
        """Whether the convolution of ``other``, a "conv", lies on this site's branch."""
        return other.convolution is not None and self._holds(other.convolution)

    def _holds(self, module: str) -> bool:
        return any(is_within(module, path) for path in self.branch)


@dataclass(frozen=True)
class LeftAlone:
    """A module that gets no block, and why.

    Attributes:
        path: of the module; "" for the model itself.
        reason: in words for the user.
    """

    path: str
    reason: str
