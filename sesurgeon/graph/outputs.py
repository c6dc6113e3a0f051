"""Which tensors are the network's own output: nothing more is computed from them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx, nn

from sesurgeon.graph import ops
from sesurgeon.graph.flow import Flow
from sesurgeon.graph.paths import join

Calls = Mapping[str, list[tuple[str, fx.Node]]]
"""Module path -> the calls of that module: path of the module whose graph has one, and its node."""


def calls_in(model: nn.Module, flows: Mapping[str, Flow]) -> Calls:
    """Who calls whom in ``model``. A module that is known by several paths is listed under the first."""
    paths = {module: path for path, module in model.named_modules()}
    found: dict[str, list[tuple[str, fx.Node]]] = {}
    for path, flow in flows.items():
        for node in flow.nodes:
            module = ops.module_of(flow.owner, node)
            if module is not None:
                found.setdefault(paths.get(module, join(path, node.target)), []).append((path, node))
    return found


def is_returned(flows: Mapping[str, Flow], calls: Calls, path: str, node: fx.Node) -> bool:
    """Whether the value of ``node`` is returned by the network, and by nobody read for more.

    What a caller in forward order does with it counts as nothing if it keeps each channel's meaning: other views of
    it, an activation or softmax, a number added or multiplied, resizing.

    Args:
        flows: path of a module -> the flow in its graph.
        calls: of :func:`calls_in`.
        path: of the module whose graph holds ``node``.
        node: a node with a tensor value.
    """
    users = [user for user in node.users if not ops.is_shape_access(user)]
    return bool(users) and all(_hands_out(flows, calls, path, user) for user in users)


def _hands_out(flows: Mapping[str, Flow], calls: Calls, path: str, user: fx.Node) -> bool:
    if user.op != "output":
        return ops.only_presents(flows[path].owner, user) and is_returned(flows, calls, path, user)
    callers = calls.get(path, [])
    return path == "" or (bool(callers) and all(is_returned(flows, calls, caller, call) for caller, call in callers))
