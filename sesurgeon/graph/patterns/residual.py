"""Residual branches: sums, differences and two-way concatenations of a computed branch and a shortcut."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx

from sesurgeon.graph import ops
from sesurgeon.graph.candidates import Candidate
from sesurgeon.graph.flow import Flow
from sesurgeon.graph.patterns.forks import share_one_fork
from sesurgeon.graph.patterns.joined import Joined, adds_the_fork, joined_by
from sesurgeon.graph.patterns.narrowing import narrows, shrinks_between

# A shortcut may hold a projection, but the branch has at least this many times its layers (ResNet: 2 or 3 to 1,
# GhostNet: 5 to 2); with less they are parallel branches (RepVGG: 1 to 1).
_LAYERS_TO_PROJECTIONS = 2
# what they give, next to a sum, are the scores of an attention (HaloNet, LambdaNetworks), and no feature map
_MATRIX_PRODUCTS = ("matmul", "bmm", "einsum")


def residual_branches(flow: Flow, path: str, children: Mapping[str, Flow]) -> list[Candidate]:
    """The residual branches of one local graph, in order (the paper's Fig. 3: SE before the sum).

    A sum is not residual if its branches are parallel, with as many layers each (RepVGG, HRNet's fusion), or do not
    come from one fork (feature pyramids, the skip connections that WaveNet adds up). Branches that shrink and grow
    again (a U-Net's long skip), here or in a child, are marked as such. No branch includes a shortcut from its own
    fork: those of ``x + a(x) + b(x)`` are a, b.

    Args:
        flow: in the graph of the module to look at.
        path: of that module.
        children: path of a module -> the flow in its graph, in the one mode that decides what narrows.
    """
    found: list[Candidate] = []
    parallel: set[fx.Node] = set()
    for node in flow.nodes:
        joined = joined_by(flow, node)
        if joined is None or flow.weight(joined.own) == 0 or not flow.depends_on_data(joined.shortcut):
            continue
        if _is_parallel(joined, parallel):
            parallel.add(node)
            continue
        own, end = joined.own, joined.end
        if end not in own or ops.name_of(end) in _MATRIX_PRODUCTS or adds_the_fork(flow, end, own):
            continue
        if not share_one_fork(joined):
            continue
        narrow = narrows(flow, path, children, own, end)
        if narrow or not shrinks_between(flow, own, end):
            found.append(
                Candidate(
                    "residual", end, own, has_skip=True, summed=joined.summed, narrows=narrow, join=node,
                    shortcut=joined.shortcut,
                )
            )  # fmt: skip
    return _without_nested(flow, found)


def _is_parallel(joined: Joined, parallel: set[fx.Node]) -> bool:
    """Whether branch and shortcut are alike, or the branch is a sum of such as in ``parallel``.

    A sum of branches of several layers each is a branch itself where a bare shortcut is added to it. Beside a residual
    sum, whose layers are not the shortcut's, a lone convolution is a projection or an adapter.
    """
    flow = joined.flow
    layers, projections = flow.weight(joined.own), flow.weight(joined.beside)
    if layers < _LAYERS_TO_PROJECTIONS * (1 if joined.is_running else projections):
        return True
    return joined.end in parallel and (projections > 0 or not _is_deep(flow, joined.own))


def _is_deep(flow: Flow, branch: frozenset[fx.Node]) -> bool:
    """Whether layers follow one another in it; parallel convolutions have one layer each."""
    layers = {node for node in branch if flow.weight(frozenset([node]))}
    return any(flow.weight(frozenset([node])) > 1 or flow.upto(node) & layers != {node} for node in layers)


def _without_nested(flow: Flow, found: list[Candidate]) -> list[Candidate]:
    """Of two nested branches the inner one, as :func:`sesurgeon.placement.policies.standard` has it for modules.

    But the outer one where the inner is no block by itself: narrower (Res2Net adds its splits inside the branch),
    concatenated, or summed with an argument that comes in there.
    """
    nested = [
        (inner, outer)
        for outer in found
        for inner in found
        if not outer.narrows and inner.node in outer.branch and inner.node is not outer.node
    ]
    dropped = {outer.node if _is_block_within(flow, inner, outer) else inner.node for inner, outer in nested}
    return [one for one in found if one.node not in dropped]


def _is_block_within(flow: Flow, inner: Candidate, outer: Candidate) -> bool:
    shapes = [tensor.shape for one in (inner, outer) if (tensor := ops.tensor_of(one.node)) is not None]
    if inner.narrows or not inner.summed or inner.shortcut is None or len({len(shape) for shape in shapes}) > 1:
        return False
    return shapes[0][1] >= shapes[1][1] and flow.share_a_fork(inner.node, inner.shortcut)
