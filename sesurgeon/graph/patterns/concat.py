"""Multi-branch modules: concatenations of branches that have layers."""

from __future__ import annotations

from torch import fx

from sesurgeon.graph import ops
from sesurgeon.graph.candidates import Candidate
from sesurgeon.graph.flow import Flow


def concatenations(flow: Flow, residuals: list[Candidate]) -> list[Candidate]:
    """Channel concatenations of at least two branches, one of them with layers (the paper's Fig. 2, Inception).

    Left out are those inside another one, those inside or after a residual branch of the same graph, and those that
    only join what came in from outside (the inputs of a dense layer).
    """
    inside = frozenset[fx.Node]().union(*(residual.branch for residual in residuals))
    found: list[Candidate] = []
    for node in flow.nodes:
        operands = _operands(node)
        if len(operands) < 2 or node in inside or any(residual.node in flow.upto(node) for residual in residuals):
            continue
        shared = flow.shared(operands)
        with_layers = sum(flow.weight(flow.upto(operand) - shared) > 0 for operand in operands)
        if with_layers >= 2 or (with_layers == 1 and len(operands) > 2):
            found.append(Candidate("concat", node, (flow.behind(operands) - shared) | {node}))
    return [
        candidate
        for candidate in found
        if not any(candidate.node in other.branch for other in found if other is not candidate)
    ]


def _operands(node: fx.Node) -> tuple[fx.Node, ...]:
    if ops.joins(node) != "cat" or ops.tensor_of(node) is None or ops.cat_dim(node) != 1:
        return ()
    return tuple(operand for operand in ops.joined(node) if isinstance(operand, fx.Node))
