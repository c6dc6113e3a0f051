"""Children that only add or concatenate their arguments: in their caller's graph they count as that operation."""

from __future__ import annotations

from torch import fx, nn

from sesurgeon.graph import ops
from sesurgeon.models.footprint import Footprint


def mark_joins(owner: nn.Module, graph: fx.Graph) -> None:
    """Note in the graph of ``owner``'s forward which of the children that it calls join tensors, and how."""
    for node in graph.nodes:
        module = ops.module_of(owner, node)
        if module is not None and _may_join(module) and len(set(node.all_input_nodes)) > 1:
            kind, dim = _join_of(module)
            node.meta |= {"joins": kind, "dim": dim}


def _may_join(module: nn.Module) -> bool:
    """Whether it has neither weights nor children, and is not one of torch's own."""
    empty = not (module._parameters or module._buffers or module._modules)
    return empty and not type(module).__module__.startswith("torch.")


def _join_of(module: nn.Module) -> tuple[str, int | None]:
    """("add", None) or ("cat", dimension) for a forward that does just this with all its arguments; else ("", None)."""
    before = Footprint(module)
    try:
        nodes = list(fx.Tracer().trace(module).nodes)
    except Exception:  # it is the user's forward, and asks what a proxy cannot answer
        return "", None
    finally:
        before.restore()
    if len(nodes) < 3:
        return "", None
    *arguments, joined, output = nodes
    all_used = all(node.op == "placeholder" and node.users for node in arguments)
    if not all_used or output.args != (joined,):
        return "", None
    if ops.name_of(joined) == "add" and joined.args == tuple(arguments) and not joined.kwargs:
        return "add", None
    given = joined.args[0] if joined.args else joined.kwargs.get("tensors")
    if ops.name_of(joined) == "cat" and (given == arguments[0] or given in (arguments, tuple(arguments))):
        dim = ops.dim_given(joined)
        return ("cat", dim) if isinstance(dim, int) else ("", None)
    return "", None
