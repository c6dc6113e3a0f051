"""Residual branches: sums, differences and two-way concatenations of a computed branch and a shortcut."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx

from sesurgeon.graph import ops
from sesurgeon.graph.candidates import Candidate
from sesurgeon.graph.flow import Flow
from sesurgeon.graph.patterns.narrowing import narrows, shrinks_between
from sesurgeon.graph.patterns.sources import sources

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
        summed = _is_sum(node)
        operands = _operands(node, summed)
        if operands is None:
            continue
        branch, shortcut = _roles(flow, operands)
        own, beside = flow.private(branch, shortcut), flow.private(shortcut, branch)
        layers, projections = flow.weight(own), flow.weight(beside)
        if layers == 0 or not flow.depends_on_data(shortcut):
            continue
        end = flow.branch_end(branch)
        if _is_running_sum(flow, shortcut, beside):
            projections = 1  # what it sums up are branches of their own; beside them, one layer alone is a projection
        lighter = layers < _LAYERS_TO_PROJECTIONS * projections
        if lighter or (end in parallel and (projections > 0 or not _is_deep(flow, own))):
            parallel.add(node)
            continue
        if end not in own or not _from_one_fork(flow, end, own, shortcut, beside, summed):
            continue
        if _adds_the_fork(flow, end, own) or ops.name_of(end) in _MATRIX_PRODUCTS:
            continue
        narrow = narrows(flow, path, children, own, end)
        if narrow or not shrinks_between(flow, own, end):
            found.append(
                Candidate(
                    "residual", end, own, has_skip=True, summed=summed, narrows=narrow, join=node, shortcut=shortcut
                )
            )
    # Res2Net adds its splits inside the branch: the outer sum is the block's
    outer = [one for one in found if not one.narrows]
    return [one for one in found if not any(one.node in other.branch - {other.node} for other in outer)]


def _is_sum(node: fx.Node) -> bool:
    """A sum or a difference."""
    return ops.joins(node) == "add" or ops.name_of(node) == "sub"


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


def _roles(flow: Flow, operands: tuple[fx.Node, fx.Node]) -> tuple[fx.Node, fx.Node]:
    """Branch and shortcut: the one with more layers is the branch, if it is not a sum with the fork already."""
    first, second = operands
    of_first, of_second = flow.private(first, second), flow.private(second, first)
    running = [_is_running_sum(flow, first, of_first), _is_running_sum(flow, second, of_second)]
    if running[0] != running[1]:
        return (second, first) if running[0] else (first, second)
    return (first, second) if flow.weight(of_first) >= flow.weight(of_second) else (second, first)


def _is_running_sum(flow: Flow, operand: fx.Node, own: frozenset[fx.Node]) -> bool:
    """Whether it is a residual sum of its own, as the first in ``(x + a(x)) + b(x)``."""
    end = flow.branch_end(operand)
    return end in own and _adds_the_fork(flow, end, own)


def _is_deep(flow: Flow, branch: frozenset[fx.Node]) -> bool:
    """Whether layers follow one another in it; parallel convolutions have one layer each."""
    layers = [node for node in branch if flow.weight(frozenset([node]))]
    return any(flow.weight(frozenset([node])) > 1 or flow.upto(node) & {*layers} != {node} for node in layers)


def _from_one_fork(
    flow: Flow, end: fx.Node, own: frozenset[fx.Node], shortcut: fx.Node, beside: frozenset[fx.Node], summed: bool
) -> bool:
    """Whether branch and shortcut start from the same map.

    DLA hands the shortcut in as an argument of its own: there is no fork to see, but nothing is computed on it either.
    Where layers are, or where tensors are concatenated, no other map may come in: an attention U-Net's gates read two,
    and each of the skip connections that WaveNet adds up reads the layers in between. None of another size may come in
    at all: that is a fusion of scales (BiFPN).

    Args:
        flow: in the graph of both.
        end, own: of the branch, and what only it depends on.
        shortcut, beside: likewise.
        summed: they are summed, not concatenated.
    """
    last = ops.tensor_of(end)
    if last is None:
        return False
    if not flow.share_a_fork(end, shortcut):
        return summed and flow.branch_end(shortcut).op == "placeholder"
    of_branch = sources(flow, own, last)
    of_shortcut = sources(flow, beside, last) if beside else frozenset([shortcut])
    if len({tensor.shape[2:] for source in of_branch if (tensor := ops.tensor_of(source)) is not None}) > 1:
        return False
    if flow.weight(beside) and not _is_running_sum(flow, shortcut, beside):
        return of_branch == of_shortcut
    return of_shortcut <= of_branch and (summed or len(of_branch) == 1)


def _adds_the_fork(flow: Flow, end: fx.Node, branch: frozenset[fx.Node]) -> bool:
    """Whether ``end`` is itself a sum with the fork of the branch, as the first in ``(x + a(x)) + b(x)``."""
    if not _is_sum(end):
        return False
    summands = [flow.branch_end(operand) for operand in ops.operands(end) if isinstance(operand, fx.Node)]
    return any(
        ops.tensor_of(summand) is not None
        and flow.depends_on_data(summand)
        and (summand not in branch or _adds_the_fork(flow, summand, branch))
        for summand in summands
    )
