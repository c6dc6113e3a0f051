"""The maps that a branch starts from."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx

from sesurgeon.graph import ops
from sesurgeon.graph.flow import Flow


def sources(flow: Flow, branch: frozenset[fx.Node], end: Tensor) -> frozenset[fx.Node]:
    """The maps outside of ``branch`` that it reads; of the parts of a split tensor, that tensor.

    A vector, or a single place where ``end`` has many, is none: what is computed from an embedding of time is no branch
    of it. A result among several of a child is a source by itself.
    """
    found = {source for node in branch for source in _read_from_outside(flow, branch, node)}
    return frozenset(node for node in found if is_map(node, end))


def smallest_needed(flow: Flow, branch: frozenset[fx.Node], end: Tensor) -> torch.Size:
    """The size, (N, C, *spatial), below which a map in a branch is smaller than both its ends.

    A branch that enlarges its maps starts from small ones (an up-sampling residual block of a decoder); one that
    shrinks them and enlarges them again has smaller ones between. Of several sources the largest counts. What is an
    argument of its own, beside the shortcut, is no source: the shortcut of a U-Net's decoder shrank into it elsewhere.
    """
    shapes = [tensor.shape for node in sources(flow, branch, end) if (tensor := ops.tensor_of(node)) is not None]
    largest = max(shapes, key=lambda shape: shape[2:].numel(), default=end.shape)
    return torch.Size([*end.shape[:2], *map(min, zip(largest[2:], end.shape[2:], strict=True))])


def _read_from_outside(flow: Flow, branch: frozenset[fx.Node], node: fx.Node) -> Iterator[fx.Node]:
    for parent in flow.parents(node):
        if parent in branch:
            continue
        if ops.tensor_of(parent) is not None:
            yield parent
        elif parent.op in ("call_module", "placeholder"):
            yield node
        else:
            yield from _read_from_outside(flow, branch, parent)


def is_map(node: fx.Node, end: Tensor) -> bool:
    """Whether ``node`` gives a map as ``end`` is one, and no vector, single place or parameter."""
    tensor = ops.tensor_of(node)
    if tensor is None or tensor.ndim != end.ndim or node.op == "get_attr":
        return False
    return tensor.shape[2:].numel() > 1 or end.shape[2:].numel() == 1
