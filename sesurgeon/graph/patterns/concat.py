"""Multi-branch modules: the concatenation of branches that compute."""

from __future__ import annotations

from torch import fx

from sesurgeon.graph import ops
from sesurgeon.graph.candidates import Candidate
from sesurgeon.graph.flow import Flow


def concatenations(flow: Flow, residuals: list[Candidate]) -> list[Candidate]:
    """Channel concatenations of at least two branches, one of them with layers (the paper's Fig. 2, Inception).

    Left out are those within another one, those that a residual branch of the same graph holds or feeds, and those
    that only put together what came in from outside (the inputs of a dense layer).
    """
    inside = frozenset[fx.Node]().union(*(residual.branch for residual in residuals))
    found: list[Candidate] = []
    for node in flow.nodes:
        operands = _operands(node)
        if len(operands) < 2 or node in inside or any(residual.node in flow.upto(node) for residual in residuals):
            continue
        shared = frozenset.intersection(*(flow.upto(operand) for operand in operands))
        own = frozenset[fx.Node]().union(*(flow.upto(operand) for operand in operands)) - shared
        with_layers = sum(flow.weight(flow.upto(operand) - shared) > 0 for operand in operands)
        if with_layers >= 2 or (with_layers == 1 and len(operands) > 2):
            found.append(Candidate("concat", node, own | {node}))
    return [
        candidate
        for candidate in found
        if not any(candidate.node in other.branch for other in found if other is not candidate)
    ]


def _operands(node: fx.Node) -> tuple[fx.Node, ...]:
    if ops.joins(node) != "cat" or ops.tensor_of(node) is None or ops.cat_dim(node) != 1:
        return ()
    return tuple(operand for operand in ops.joined(node) if isinstance(operand, fx.Node))
