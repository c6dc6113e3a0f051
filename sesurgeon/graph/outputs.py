"""Where tensors end: which ones the network returns, and which ones are only factors of others."""

from __future__ import annotations

from collections.abc import Callable, Mapping

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
    return _ends(flows, calls, path, node, lambda inside, user: user.op == "output" and inside == "")


def is_factor(flows: Mapping[str, Flow], calls: Calls, path: str, node: fx.Node) -> bool:
    """Whether the value of ``node`` does nothing but scale tensors that are no gates, presented as in `is_returned`.

    Args:
        flows, calls, path, node: as there.
    """
    return _ends(flows, calls, path, node, lambda inside, user: _scales_a_map(flows[inside], user))


def _scales_a_map(flow: Flow, product: fx.Node) -> bool:
    if not ops.is_product(product):
        return False
    factors = ops.operands(product)
    return all(map(flow.depends_on_data, factors)) and not all(ops.is_gate(flow.owner, factor) for factor in factors)


def _ends(
    flows: Mapping[str, Flow], calls: Calls, path: str, node: fx.Node, ends: Callable[[str, fx.Node], bool]
) -> bool:
    """Whether all that becomes of a value are ends, each given as the path of a graph and a node that reads it."""
    seen: set[tuple[str, fx.Node]] = set()
    ahead = [(path, node)]
    while ahead:
        inside, given = ahead.pop()
        if (inside, given) in seen:
            continue
        seen.add((inside, given))
        users = ops.readers(given)
        further = [[] if ends(inside, user) else _handed_on(flows, calls, inside, user) for user in users]
        if not users or None in further:
            return False
        ahead += [place for places in further for place in places or ()]
    return True


def _handed_on(flows: Mapping[str, Flow], calls: Calls, path: str, user: fx.Node) -> list[tuple[str, fx.Node]] | None:
    """Where a value goes on to from one of its users; None where it leaves the network, or more is computed."""
    if user.op == "output":
        return calls.get(path)
    return [(path, user)] if ops.only_presents(flows[path].owner, user) else None
