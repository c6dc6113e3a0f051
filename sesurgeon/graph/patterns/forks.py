"""The maps that a branch starts from, and whether its shortcut starts from the same."""

from __future__ import annotations

import operator
from collections.abc import Iterator

import torch
from torch import Tensor, fx

from sesurgeon.graph import ops
from sesurgeon.graph.flow import Flow
from sesurgeon.graph.patterns.joined import Joined


def share_one_fork(joined: Joined) -> bool:
    """Whether branch and shortcut start from the same map; or the shortcut from an argument of its own (DLA).

    Where layers are on the shortcut, or where tensors are concatenated, no other map may come in: an attention U-Net's
    gates read two, and each of the skip connections that WaveNet adds up reads the layers in between. A branch that
    ends by resampling, with a map of another size in it, fuses scales (BiFPN).
    """
    flow, shortcut, last = joined.flow, joined.shortcut, ops.tensor_of(joined.branch)
    if last is None:
        return False
    projections = flow.weight(joined.beside)
    if not flow.share_a_fork(joined.branch, shortcut):
        return joined.summed and projections == 0 and not _enlarges(joined.beside, shortcut)
    of_branch = sources(flow, joined.own, last)
    of_shortcut = sources(flow, joined.beside, last) if joined.beside else frozenset([_first_reading(shortcut)])
    if joined.is_running:  # through branches before this one
        return not of_branch.isdisjoint(of_shortcut)
    if projections > 0:
        return of_branch == of_shortcut
    if ops.resamples(flow.owner, joined.end) and len({_places(source) for source in of_branch}) > 1:
        return False
    return of_shortcut <= of_branch and (joined.summed or len(of_branch) == 1)


def sources(flow: Flow, branch: frozenset[fx.Node], end: Tensor) -> frozenset[fx.Node]:
    """The maps outside of ``branch`` that it reads; of the parts of a split tensor, that tensor.

    A result among several of a child, or an item of an argument, is a source by itself.
    """
    found = {_first_reading(source) for node in branch for source in _read_from_outside(flow, branch, node)}
    return frozenset(node for node in found if is_map(node, end))


def is_map(node: fx.Node, end: Tensor) -> bool:
    """Whether ``node`` gives a map as ``end`` is one, and no parameter, vector or single place.

    What is computed from an embedding of time is no branch of it.
    """
    tensor = ops.tensor_of(node)
    if tensor is None or tensor.ndim != end.ndim or node.op == "get_attr":
        return False
    layouts = (slice(2, None), slice(1, -1))  # channels first and last
    return not any(tensor.shape[places].numel() == 1 < end.shape[places].numel() for places in layouts)


def smallest_needed(starts: frozenset[fx.Node], end: Tensor) -> torch.Size:
    """The size, (N, C, *spatial), below which a map in a branch with these sources is smaller than both its ends.

    A branch that enlarges its maps starts from small ones (an up-sampling residual block of a decoder); one that
    shrinks them and enlarges them again has smaller ones between. Of several sources the largest counts. What is an
    argument of its own, beside the shortcut, is no source: the shortcut of a U-Net's decoder shrank into it elsewhere.
    """
    shapes = [tensor.shape for node in starts if (tensor := ops.tensor_of(node)) is not None]
    largest = max(shapes, key=lambda shape: shape[2:].numel(), default=end.shape)
    return torch.Size([*end.shape[:2], *map(min, zip(largest[2:], end.shape[2:], strict=True))])


def _read_from_outside(flow: Flow, branch: frozenset[fx.Node], node: fx.Node) -> Iterator[fx.Node]:
    """The tensors outside of ``branch`` that ``node`` reads, itself where it takes one out of a tuple of a child's."""
    for parent in flow.parents(node):
        if parent in branch:
            continue
        if ops.tensor_of(parent) is not None:
            yield parent
        elif parent.op in ("call_module", "placeholder"):
            yield node
        else:  # a tuple that an operation gave: the parts of a split tensor
            yield from _read_from_outside(flow, branch, parent)


def _first_reading(node: fx.Node) -> fx.Node:
    """The first node that takes the same item out of the same tuple or dict; ``node`` itself if it is no such node."""
    if node.target is not operator.getitem or not isinstance(node.args[0], fx.Node):
        return node
    return next(user for user in node.args[0].users if user.target is operator.getitem and user.args == node.args)


def _enlarges(branch: frozenset[fx.Node], end: fx.Node) -> bool:
    """Whether the tensor ``end`` has more places than one that ``branch`` starts from, an argument or an item of it."""
    last = ops.tensor_of(end)
    starts = (node for node in branch if not any(ops.tensor_of(parent) is not None for parent in node.all_input_nodes))
    tensors = (ops.tensor_of(node) for node in starts)
    return last is not None and any(
        tensor is not None and tensor.ndim == last.ndim and tensor.shape[2:].numel() < last.shape[2:].numel()
        for tensor in tensors
    )


def _places(node: fx.Node) -> torch.Size:
    tensor = ops.tensor_of(node)
    return torch.Size() if tensor is None else tensor.shape[2:]
