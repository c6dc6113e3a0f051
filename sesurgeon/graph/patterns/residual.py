"""Residual branches: sums (and two-way concatenations) of a computed branch and a shortcut."""

from __future__ import annotations

from torch import fx

from sesurgeon.graph import ops
from sesurgeon.graph.candidates import Candidate
from sesurgeon.graph.flow import Flow

# A shortcut may hold a projection, but the branch has at least this many times its layers (ResNet: 2 or 3 to 1,
# GhostNet: 5 to 2); what is nearer to equal are parallel branches (RepVGG: 1 to 1).
_LAYERS_TO_PROJECTIONS = 2


def residual_branches(flow: Flow) -> list[Candidate]:
    """The residual branches of one local graph, in order (the paper's Fig. 3: SE before the sum).

    No residual is: a sum of parallel branches with as many layers each (RepVGG, HRNet's fusion), of tensors that
    nothing forks (feature pyramids), or one whose branch shrinks and grows again (a U-Net's long skip).
    """
    found: list[Candidate] = []
    parallel: set[fx.Node] = set()
    for node in flow.nodes:
        summed = ops.name_of(node) == "add"
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
        if end in own and not _shrinks_between(own, end):
            found.append(Candidate("residual", end, own, has_skip=True, summed=summed, join=node, shortcut=shortcut))
    # Res2Net adds its splits inside the branch: the outer sum is the block's
    return [one for one in found if not any(one.node in other.branch - {other.node} for other in found)]


def _operands(node: fx.Node, summed: bool) -> tuple[fx.Node, fx.Node] | None:
    """The two tensors that ``node`` joins; None where it joins no two tensors of one size."""
    if summed:
        joined = ops.operands(node)
    elif ops.name_of(node) == "cat" and ops.cat_dim(node) == 1:
        given = node.args[0] if node.args else node.kwargs.get("tensors")
        joined = tuple(given) if isinstance(given, (list, tuple)) else ()
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
    if last is None:
        return True
    places = last.shape[2:]
    for node in branch:
        inner = None if node.op == "get_attr" else ops.tensor_of(node)  # the kernel of F.conv2d is no map
        if inner is None or inner.ndim != last.ndim or inner.shape[2:].numel() == 1:  # 1 x 1: pooled for a gate
            continue
        if all(small < large for small, large in zip(inner.shape[2:], places, strict=True)):
            return True
    return False
