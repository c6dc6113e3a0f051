"""Two tensors that one node joins: which is the branch, and which the shortcut."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import fx

from sesurgeon.graph import ops
from sesurgeon.graph.flow import Flow


@dataclass(frozen=True)
class Joined:
    """Two tensors that one node joins.

    Attributes:
        flow: in the graph of all of them.
        branch, shortcut: the operands.
        summed: they are summed or subtracted, not concatenated.
    """

    flow: Flow
    branch: fx.Node
    shortcut: fx.Node
    summed: bool

    @cached_property
    def own(self) -> frozenset[fx.Node]:
        """What only the branch depends on."""
        return self.flow.private(self.branch, self.shortcut)

    @cached_property
    def beside(self) -> frozenset[fx.Node]:
        """What only the shortcut depends on."""
        return self.flow.private(self.shortcut, self.branch)

    @cached_property
    def end(self) -> fx.Node:
        """The end of the branch's own computation."""
        return self.flow.branch_end(self.branch)

    @cached_property
    def is_running(self) -> bool:
        """Whether the shortcut is a residual sum of its own, as the first in ``(x + a(x)) + b(x)``."""
        sum_of = self.flow.branch_end(self.shortcut)
        has_layers = self.flow.weight(self.beside) > 0
        return has_layers and sum_of in self.beside and adds_the_fork(self.flow, sum_of, self.beside)

    def swapped(self) -> Joined:
        """With the operands in each other's place."""
        return Joined(self.flow, self.shortcut, self.branch, self.summed)


def joined_by(flow: Flow, node: fx.Node) -> Joined | None:
    """Branch and shortcut: the one with more layers is the branch, if it is not a sum with the fork already."""
    summed = ops.is_sum(node)
    operands = _operands(node, summed)
    if operands is None:
        return None
    first = Joined(flow, *operands, summed)
    second = first.swapped()
    if first.is_running != second.is_running:
        return first if first.is_running else second
    return first if flow.weight(first.own) >= flow.weight(second.own) else second


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


def adds_the_fork(flow: Flow, end: fx.Node, branch: frozenset[fx.Node]) -> bool:
    """Whether ``end`` is itself a sum with the fork of the branch, as the first in ``(x + a(x)) + b(x)``."""
    if not ops.is_sum(end):
        return False
    summands = [flow.branch_end(operand) for operand in ops.operands(end) if isinstance(operand, fx.Node)]
    return any(
        ops.tensor_of(summand) is not None
        and flow.depends_on_data(summand)
        and (summand not in branch or adds_the_fork(flow, summand, branch))
        for summand in summands
    )
