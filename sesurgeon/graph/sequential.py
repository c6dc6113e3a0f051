"""Which child of an ``nn.Sequential`` gives a tensor."""

from __future__ import annotations

from torch import fx, nn

from sesurgeon.graph.tracing.local_graphs import LocalGraphs
from sesurgeon.paths import join


def child_giving(local: LocalGraphs, path: str, node: fx.Node | None) -> str | None:
    """Name of the child of the ``nn.Sequential`` at ``path`` that gives ``node``; None where there is no such child.

    The graph calls a module that is there twice by its first name both times, but each call is that of one child.

    Args:
        local: the network's graphs.
        path: of any module. A subclass of ``nn.Sequential`` counts if it runs like one. A Sequential into which other
            modules reach, mostly by the numbers of its children, does not count.
        node: of the module's graph.
    """
    owner, graph = local.model.get_submodule(path), local.graphs.get(path)
    runs_in_turn = isinstance(owner, nn.Sequential) and type(owner).__iter__ is nn.Sequential.__iter__
    if not runs_in_turn or type(owner).forward is not nn.Sequential.forward or graph is None:
        return None
    steps = [step for step in graph.nodes if step.op == "call_module"]
    row = dict(zip(steps, owner._modules, strict=False)) if len(steps) == len(owner._modules) else {}
    return None if node not in row or _is_reached_into(local, path) else row[node]


def _is_reached_into(local: LocalGraphs, path: str) -> bool:
    """Whether a module outside of that at ``path`` calls or reads something inside it."""
    inside = join(path, "")
    return any(
        node.op in ("call_module", "get_attr") and join(caller, node.target).startswith(inside)
        for caller, graph in local.graphs.items()
        if not join(caller, "").startswith(inside)
        for node in graph.nodes
    )
