"""Around a residual branch: the tensor that it starts from, the shortcut, and the sum."""

from __future__ import annotations

from torch import fx

from sesurgeon.graph import ops
from sesurgeon.graph.candidates import Candidate
from sesurgeon.graph.flow import Flow
from sesurgeon.graph.patterns.forks import is_map


def around(flow: Flow, residual: Candidate) -> list[Candidate]:
    """The places of the paper's other integration strategies (section 6.5, Figure 7), as far as they exist.

    A branch that starts from several maps has no fork (vectors, as of a time or a class, do not count); a branch
    without a shortcut has none of these places.
    """
    if residual.join is None or residual.shortcut is None:
        return []
    places = []
    if not _is_overwritten(flow, residual.shortcut, residual.join):
        places.append(Candidate("shortcut", residual.shortcut, residual.branch, users=(residual.join,), of=residual))
    joined = _activated(flow, residual.join)
    if joined.users and not _sums_into_a_slice(flow, residual.join):  # something reads it
        places.append(Candidate("sum", joined, residual.branch, of=residual))
    fork = _fork(flow, residual)
    if fork is not None:
        users = tuple(node for node in flow.nodes if node in fork.users and node in residual.branch)
        places.insert(0, Candidate("fork", fork, residual.branch, users=users, of=residual))
    return places


def _sums_into_a_slice(flow: Flow, join: fx.Node) -> bool:
    """``y[:, :k] += x``: the assignment overwrites the sum, which a block there keeps for its backward pass."""
    summed = ops.operand(join)
    return ops.is_in_place(flow.owner, join) and isinstance(summed, fx.Node) and ops.is_slice(summed)


def _is_overwritten(flow: Flow, shortcut: fx.Node, join: fx.Node) -> bool:
    """Whether the shortcut's memory is written to by the sum or after it: a block there keeps it for its backward pass.

    By the sum only if the shortcut is a view, as in ``y[:, :k] += branch(y)``. Otherwise the sum writes into the result
    of the block.
    """
    whole = shortcut
    while ops.is_view(flow.owner, whole) and isinstance(ops.operand(whole), fx.Node):
        whole = ops.operand(whole)
    if whole is not shortcut and ops.is_in_place(flow.owner, join) and ops.operand(join) is shortcut:
        return True
    memory = _views_of(flow, whole)
    return any(_writes_into(flow, node, memory) for node in flow.nodes[flow.nodes.index(join) + 1 :])


def _views_of(flow: Flow, whole: fx.Node) -> set[fx.Node]:
    seen = {whole}
    for node in flow.nodes:
        if ops.operand(node) in seen and ops.is_view(flow.owner, node):
            seen.add(node)
    return seen


def _writes_into(flow: Flow, node: fx.Node, memory: set[fx.Node]) -> bool:
    if memory.isdisjoint(node.all_input_nodes):
        return False
    return (ops.writes(flow.owner, node) and ops.operand(node) in memory) or ops.writes_inside(flow.owner, node)


def _activated(flow: Flow, join: fx.Node) -> fx.Node:
    following = ops.only_user(join)
    return following if following is not None and ops.is_activation(flow.owner, following) else join


def _fork(flow: Flow, residual: Candidate) -> fx.Node | None:
    """The one map that all of the branch is computed from."""
    branch, end = residual.branch, ops.tensor_of(residual.node)
    entries = {parent for node in branch for parent in flow.parents(node) if _enters(flow, parent, branch)}
    if end is not None and len(entries) > 1:
        entries = {entry for entry in entries if is_map(entry, end)}
    fork = _as_changed(flow, entries.pop(), branch) if len(entries) == 1 else None
    return None if fork is None or _is_written_later(flow, fork) else fork


def _is_written_later(flow: Flow, fork: fx.Node) -> bool:
    """Whether the forward writes into the fork (``x += branch(x)``), which a block there keeps for its backward."""
    memory = _views_of(flow, fork)
    return any(_writes_into(flow, node, memory) for node in flow.nodes)


def _enters(flow: Flow, node: fx.Node, branch: frozenset[fx.Node]) -> bool:
    """Whether the branch starts from ``node``: it lies outside, or is made from no tensor inside (an argument)."""
    if ops.tensor_of(node) is None or not flow.depends_on_data(node):
        return False
    before = {*node.all_input_nodes, *((flow.upto(node) - {node}) & branch)}
    return node not in branch or all(ops.tensor_of(other) is None for other in before)


def _as_changed(flow: Flow, fork: fx.Node, branch: frozenset[fx.Node]) -> fx.Node | None:
    """``fork``, or the result of the operation that first changes it in place (the ReLU that a shortcut sees too)."""
    readers = set(ops.readers(fork))
    users = [node for node in flow.nodes if node in readers]  # in the order in which they run
    if any(node in branch and ops.writes_inside(flow.owner, node) for node in users):
        return None  # no node has the changed tensor for its result
    mutators = [node for node in users if node in branch and ops.is_in_place(flow.owner, node)]
    if not mutators:
        return fork
    alone = [node for node in users if node in branch] == mutators == users[:1]
    return _as_changed(flow, mutators[0], branch) if alone else None
