"""Operations in place that are written as statements: ``F.relu_(x)`` for ``x = F.relu_(x)``."""

from __future__ import annotations

from torch import fx, nn

from sesurgeon.graph import ops


def use_results(owner: nn.Module, graph: fx.Graph) -> None:
    """Let what comes after an in-place operation read its result, which is the very tensor that it wrote into.

    Then the graph shows what the values depend on. Operations whose result is used already stay as they are.

    Args:
        owner: the module whose forward ``graph`` is.
        graph: a local graph, with values; it is changed.
    """
    later: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        written = ops.operand(node)
        if not node.users and isinstance(written, fx.Node) and _gives_back(owner, node, written):
            written.replace_all_uses_with(node, delete_user_cb=later.__contains__)
        later.add(node)


def _gives_back(owner: nn.Module, node: fx.Node, written: fx.Node) -> bool:
    """Whether the result is the very tensor ``written``; an activation layer with ``inplace`` is taken at its word."""
    if not ops.is_in_place(owner, node) or ops.tensor_of(node) is None:
        return False
    return node.meta["value"] is written.meta["value"] or (node.op == "call_module" and ops.is_activation(owner, node))
