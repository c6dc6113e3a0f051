"""Branches that shrink their maps and enlarge them again: a level of a U-Net, and no residual block."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import fx

from sesurgeon.graph import ops
from sesurgeon.graph.flow import Flow
from sesurgeon.graph.patterns.forks import smallest_needed, sources
from sesurgeon.paths import join

_CONVOLVES = re.compile(r"conv\w*|pixel_unshuffle|PixelUnshuffle")
_REDUCTIONS = ("mean", "sum", "amax", "amin", "max", "min", "std", "var", "norm", "vector_norm", "logsumexp", "median")


def narrows(flow: Flow, path: str, children: Mapping[str, Flow], branch: frozenset[fx.Node], end: fx.Node) -> bool:
    """Whether every way to the end of a branch leads through smaller maps, in this graph or in those of children.

    Smaller maps, than both its ends, are those made by an operation that resizes, and those of a single place, whatever
    made them: what is expanded from one is the same everywhere (PointNet's global feature). A narrow way beside a wide
    one, such as that of a gate, does not count.

    Args:
        flow: in the graph that holds the branch.
        path: of the module whose graph that is.
        children: path of a module -> the flow in its graph.
        branch: the nodes that compute ``end``, from the fork on.
        end: of the branch, a node with a tensor value.
    """
    last = ops.tensor_of(end)
    if last is None:
        return False
    than = smallest_needed(sources(flow, branch, last), last)
    return end not in _reached(flow, path, children, branch, than)


def shrinks_between(flow: Flow, branch: frozenset[fx.Node], end: fx.Node) -> bool:
    """Whether some map inside the branch, whatever made it, is smaller than both its ends in all directions.

    What is not computed from its start, but from an argument of its own, does not shrink.
    """
    last = ops.tensor_of(end)
    if last is None:
        return True
    starts = sources(flow, branch, last)
    than = smallest_needed(starts, last)
    inside = [node for node in branch if not starts or not starts.isdisjoint(flow.upto(node))]
    return any(_is_smaller(node, than) and not _is_statistic(node) for node in inside)


def _is_smaller(node: fx.Node, than: torch.Size) -> bool:
    """Whether ``node`` gives a map that is smaller in all directions, and more than a single place."""
    inner = None if node.op == "get_attr" else ops.tensor_of(node)  # the kernel of F.conv2d is no map
    if inner is None or inner.ndim != len(than) or inner.shape[2:].numel() == 1:
        return False
    return all(small < large for small, large in zip(inner.shape[2:], than[2:], strict=True))


def _is_statistic(node: fx.Node) -> bool:
    """Whether ``node`` gives a statistic of a whole map with the channels last, (N, 1, 1, C), which looks like a map.

    It comes from a reduction or from another statistic, in whichever order of dimensions; a map of one channel and one
    row, (N, 1, 1, W), comes from a layer that reads a larger map.
    """
    tensor = ops.tensor_of(node)
    if tensor is None or tensor.shape[1:-1].numel() > 1:
        return False
    read = [ops.tensor_of(parent) for parent in node.all_input_nodes if parent.op != "get_attr"]
    shapes = [one.shape for one in read if one is not None]
    maps = [shape for shape in shapes if len(shape) == tensor.ndim]
    if not maps:  # vectors, which were given the dimensions of a map again
        return bool(shapes)
    return ops.name_of(node) in _REDUCTIONS or any(1 in (shape[2:].numel(), shape[1:-1].numel()) for shape in maps)


def _is_one_place(node: fx.Node, than: torch.Size) -> bool:
    inner = ops.tensor_of(node)
    if inner is None or inner.ndim != len(than):
        return False
    return inner.shape[2:].numel() == 1 < than[2:].numel()


def _reached(
    flow: Flow, path: str, children: Mapping[str, Flow], nodes: frozenset[fx.Node], than: torch.Size
) -> set[fx.Node]:
    """Those of ``nodes`` that data from outside reach through maps which are all as large as ``than``."""
    reached: set[fx.Node] = set()
    for node in flow.nodes:
        parents = [parent for parent in flow.parents(node) if flow.depends_on_data(parent)]
        fed = node.op == "placeholder" or any(parent in reached or parent not in nodes for parent in parents)
        if fed and node in nodes and not _blocks(flow, path, children, node, than):
            reached.add(node)
    return reached


def _blocks(flow: Flow, path: str, children: Mapping[str, Flow], node: fx.Node, than: torch.Size) -> bool:
    module = ops.module_of(flow.owner, node)
    convolves = _CONVOLVES.fullmatch(ops.kind_of(flow.owner, node)) or (module is not None and ops.is_conv(module))
    if (convolves or ops.resamples(flow.owner, node)) and _is_smaller(node, than):
        return True
    if _is_one_place(node, than):
        return True
    called = join(path, node.target)
    inside = children.get(called) if module is not None else None
    result = None if inside is None else inside.result()
    if inside is None or result is None:
        return False
    return result not in _reached(inside, called, children, frozenset(inside.nodes), than)
