"""Residual branches: sums (and two-way concatenations) of a computed branch and a shortcut."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx

from sesurgeon.graph import ops
from sesurgeon.graph.candidates import Candidate
from sesurgeon.graph.flow import Flow
from sesurgeon.graph.patterns.narrowing import is_smaller, is_statistic, narrows

# A shortcut may hold a projection, but the branch has at least this many times its layers (ResNet: 2 or 3 to 1,
# GhostNet: 5 to 2); with less they are parallel branches (RepVGG: 1 to 1).
_LAYERS_TO_PROJECTIONS = 2


def residual_branches(flow: Flow, path: str, children: Mapping[str, Flow]) -> list[Candidate]:
    """The residual branches of one local graph, in order (the paper's Fig. 3: SE before the sum).

    A sum is not residual if its branches are parallel, with as many layers each (RepVGG, HRNet's fusion), or do not
    come from one fork (feature pyramids). Branches that shrink and grow again (a U-Net's long skip), here or in a
    child, are marked as such. No branch includes a shortcut from its own fork: those of ``x + a(x) + b(x)`` are a, b.

    Args:
        flow: in the graph of the module to look at.
        path: of that module.
        children: path of a module -> the flow in its graph, in the one mode that decides what narrows.
    """
    found: list[Candidate] = []
    parallel: set[fx.Node] = set()
    for node in flow.nodes:
        summed = ops.joins(node) == "add"
        operands = _operands(node, summed)
        if operands is None:
            continue
        branch, shortcut = _by_weight(flow, operands)
        own = flow.private(branch, shortcut)
        layers, projections = flow.weight(own), flow.weight(flow.private(shortcut, branch))
        if layers == 0 or not flow.depends_on_data(shortcut):
            continue
        end = flow.branch_end(branch)
        if layers < _LAYERS_TO_PROJECTIONS * projections or end in parallel:
            parallel.add(node)
            continue
        forked = flow.share_a_fork(branch, shortcut)
        # DLA hands the shortcut in as an argument of its own: no fork to see, but nothing is computed on it either
        if not forked and (projections > 0 or not summed):
            continue
        if end not in own or _adds_the_fork(flow, end, own):
            continue
        narrow = narrows(flow, path, children, own, end)
        if narrow or not _shrinks_between(own, end):
            found.append(
                Candidate(
                    "residual", end, own, has_skip=True, summed=summed, narrows=narrow, join=node, shortcut=shortcut
                )
            )
    # Res2Net adds its splits inside the branch: the outer sum is the block's
    outer = [one for one in found if not one.narrows]
    return [one for one in found if not any(one.node in other.branch - {other.node} for other in outer)]


def _operands(node: fx.Node, summed: bool) -> tuple[fx.Node, fx.Node] | None:
    """The two tensors that ``node`` joins; None where it does not join two tensors of one size."""
    if summed:
        joined = ops.operands(node)
    elif ops.joins(node) == "cat" and ops.cat_dim(node) == 1:
        joined = ops.joined(node)
    else:
        return None
    nodes = [operand for operand in joined if isinstance(operand, fx.Node)]
    tensors = [ops.tensor_of(operand) for operand in nodes]
    if len(joined) != 2 or len(nodes) != 2 or tensors[0] is None or tensors[1] is None:
        return None
    if tensors[0].ndim != tensors[1].ndim or tensors[0].shape[2:] != tensors[1].shape[2:]:
        return None
    return nodes[0], nodes[1]


def _by_weight(flow: Flow, operands: tuple[fx.Node, fx.Node]) -> tuple[fx.Node, fx.Node]:
    first, second = operands
    if flow.weight(flow.private(first, second)) >= flow.weight(flow.private(second, first)):
        return first, second
    return second, first


def _shrinks_between(branch: frozenset[fx.Node], end: fx.Node) -> bool:
    """Whether a tensor inside the branch is smaller than its end in all directions: down and up again."""
    last = ops.tensor_of(end)
    return last is None or any(is_smaller(node, last) and not is_statistic(node) for node in branch)


def _adds_the_fork(flow: Flow, end: fx.Node, branch: frozenset[fx.Node]) -> bool:
    """Whether ``end`` is itself a sum with the fork of the branch, as the first in ``(x + a(x)) + b(x)``."""
    if ops.joins(end) != "add":
        return False
    summands = [flow.branch_end(operand) for operand in ops.operands(end) if isinstance(operand, fx.Node)]
    return any(
        ops.tensor_of(summand) is not None
        and flow.depends_on_data(summand)
        and (summand not in branch or _adds_the_fork(flow, summand, branch))
        for summand in summands
    )
