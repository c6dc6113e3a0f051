"""What the pattern finders return: a place in one local graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import fx

SiteKind = Literal["residual", "fork", "shortcut", "sum", "concat", "conv"]


@dataclass(frozen=True)
class Candidate:
    """A tensor in a local graph after which a block could go.

    Attributes:
        kind: "residual": the end of a residual branch; "fork", "shortcut", "sum": the tensor that this branch starts
            from, the one that it is joined with, and the result; "concat": the joined branches of a multi-branch
            module; "conv": a convolution with its norm and activation, or a sum of parallel ones with its own.
        node: the node that gives the tensor.
        branch: the nodes that compute the tensor, from the fork on.
        has_skip: of a "residual": its branch is added to (or concatenated with) a shortcut; False for sibling blocks
            with only the branch, as MobileNetV2's with stride 2.
        summed: the join is a sum or a difference.
        narrows: the branch shrinks and grows again, as a level of a U-Net does: no place for a block.
        join: of a "residual": the node that joins branch and shortcut.
        shortcut: of a "residual": the other tensor that is joined.
        users: the nodes rewired to read the block's output; () means every user of the tensor.
        of: of a "fork", "shortcut" or "sum": the "residual" that it belongs to.
        convolution: of a "conv": path of the convolution (the largest, of parallel ones) within the owner.
        kernel_size, depthwise: of that convolution.
        host: of a "conv" in an ``nn.Sequential``: path, within the owner, of the module whose output it is. The block
            goes into that module, so that iterating over the Sequential still does what its forward does.
    """

    kind: SiteKind
    node: fx.Node
    branch: frozenset[fx.Node]
    has_skip: bool = False
    summed: bool = False
    narrows: bool = False
    join: fx.Node | None = None
    shortcut: fx.Node | None = None
    users: tuple[fx.Node, ...] = ()
    of: Candidate | None = None
    convolution: str | None = None
    kernel_size: tuple[int, ...] = ()
    depthwise: bool = False
    host: str | None = None
