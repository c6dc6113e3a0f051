"""The children of an ``nn.Sequential``, which run one after the other."""

from __future__ import annotations

from torch import fx, nn


def child_giving(owner: nn.Module, graph: fx.Graph | None, node: fx.Node | None) -> str | None:
    """Name of the child of ``owner`` that gives ``node``; None where ``owner`` is no ``nn.Sequential``.

    A module that stands in the row twice is called by its first name in the graph, but each call is one child's.

    Args:
        owner: any module; a subclass of ``nn.Sequential`` counts if it has its forward.
        graph: its local graph.
        node: of that graph.
    """
    if type(owner).forward is not nn.Sequential.forward or graph is None:
        return None
    steps = [step for step in graph.nodes if step.op == "call_module"]
    row = dict(zip(steps, owner._modules, strict=False)) if len(steps) == len(owner._modules) else {}
    return row.get(node) if node is not None else None
