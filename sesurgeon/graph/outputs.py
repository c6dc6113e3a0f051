"""Which tensors are returned by the network, with nothing more computed from them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx, nn

from sesurgeon.graph import ops
from sesurgeon.graph.flow import Flow
from sesurgeon.paths import join

Calls = Mapping[str, list[tuple[str, fx.Node]]]
"""Module path -> the calls of that module: path of the module whose graph has one, and its node."""


def calls_in(model: nn.Module, flows: Mapping[str, Flow]) -> Calls:
    """Where each module of ``model`` is called. A module known by several paths is listed under the first."""
    paths = {module: path for path, module in model.named_modules()}
    found: dict[str, list[tuple[str, fx.Node]]] = {}
    for path, flow in flows.items():
        for node in flow.nodes:
            module = ops.module_of(flow.owner, node)
            if module is not None:
                found.setdefault(paths.get(module, join(path, node.target)), []).append((path, node))
    return found


def is_returned(flows: Mapping[str, Flow], calls: Calls, path: str, node: fx.Node) -> bool:
    """Whether the network returns the value of ``node``, and computes nothing else from it.

    What keeps each channel's meaning does not count as computing: other views of it, an activation or softmax, a
    number added or multiplied, resizing.

    Args:
        flows: path of a module -> the flow in its graph.
        calls: of :func:`calls_in`.
        path: of the module whose graph holds ``node``.
        node: a node with a tensor value.
    """
    seen: set[tuple[str, fx.Node]] = set()
    ahead = [(path, node)]
    while ahead:
        inside, given = ahead.pop()
        if (inside, given) in seen:
            continue
        seen.add((inside, given))
        users = ops.readers(given)
        further = [_handed_on(flows, calls, inside, user) for user in users]
        if not users or None in further:
            return False
        ahead += [place for places in further for place in places or ()]
    return True


def _handed_on(flows: Mapping[str, Flow], calls: Calls, path: str, user: fx.Node) -> list[tuple[str, fx.Node]] | None:
    """Where a value goes on to from one of its users; [] where it leaves the network; None where more is computed."""
    if user.op == "output":
        return [] if path == "" else calls.get(path)
    return [(path, user)] if ops.only_presents(flows[path].owner, user) else None
