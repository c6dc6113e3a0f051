"""Names of tensors, the same in all local graphs through which a tensor is passed on."""

from __future__ import annotations

from torch import fx

from sesurgeon.graph.tracing.local_graphs import LocalGraphs
from sesurgeon.paths import join


def tensor_name(local: LocalGraphs, path: str, node: fx.Node) -> str:
    """``MODULE/NODE`` of the node that makes the tensor: in a child's own graph where a child returns it.

    Args:
        local: graphs of all modules.
        path: of the module whose graph holds ``node``.
        node: a node with a tensor value.
    """
    child = join(path, node.target)
    graph = local.graphs.get(child) if node.op == "call_module" else None
    returned = None if graph is None else next(iter(reversed(graph.nodes))).args[0]
    if isinstance(returned, fx.Node) and returned.op != "placeholder":
        return tensor_name(local, child, returned)
    return f"{path}/{node.name}"
