"""Attention that is there already: products of a tensor and a gate computed from it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx, nn

from sesurgeon.graph import ops
from sesurgeon.graph.flow import Flow
from sesurgeon.graph.paths import is_within, join


def attention_modules(model: nn.Module, flows: Mapping[str, Flow]) -> frozenset[str]:
    """Paths of the modules that gate a tensor, whatever they are called, and of those that are known by their names."""
    gated = {path for path, flow in flows.items() if any(_is_gating(flow, node) for node in flow.nodes)}
    named = {path for path, module in model.named_modules() if ops.is_attention(module)}
    return frozenset(gated | named)


def attention_in(branch: frozenset[fx.Node], flow: Flow, path: str, attention: frozenset[str]) -> str | None:
    """What gates a tensor within ``branch``: the path of a module, or of ``path`` itself; None where nothing does."""
    for node in flow.nodes:
        if node not in branch:
            continue
        if _is_gating(flow, node):
            return path
        if node.op == "call_module":
            called = join(path, node.target)
            for candidate in sorted(attention):
                if is_within(candidate, called):
                    return candidate
    return None


def gates_its_input(model: nn.Module, flows: Mapping[str, Flow]) -> frozenset[str]:
    """Those of :func:`attention_modules` that scale what they are given, and not what they compute from it."""
    named = {path for path, module in model.named_modules() if ops.is_attention(module)}
    gating = {
        path
        for path, flow in flows.items()
        if any(_is_gating(flow, node) and _scaled(node).op == "placeholder" for node in flow.nodes)
    }
    return frozenset(named | gating)


def attended(flow: Flow, path: str, attention: frozenset[str]) -> dict[fx.Node, str]:
    """The tensors in one graph that attention scales right away, and what does it: a module, or ``path`` itself."""
    found: dict[fx.Node, str] = {}
    for node in flow.nodes:
        called = join(path, node.target) if node.op == "call_module" else None
        if called in attention and called is not None:
            scaled = ops.operand(node)
        elif _is_gating(flow, node):
            called, scaled = path, _scaled(node)
        else:
            continue
        while isinstance(scaled, fx.Node):
            found.setdefault(scaled, called)
            scaled = ops.operand(scaled) if ops.is_noise_or_scale(flow.owner, scaled) else None
    return found


def _scaled(node: fx.Node) -> fx.Node:
    """The larger operand of a product of two tensors."""
    first, second = (operand for operand in ops.operands(node) if isinstance(operand, fx.Node))
    return max(first, second, key=lambda operand: _before_expansion(operand).meta["value"].numel())


def _is_gating(flow: Flow, node: fx.Node) -> bool:
    """``x * g`` where g has one factor a channel and was computed from data (squeezed from x, or from elsewhere).

    Statistics of x alone make a norm (instance norm, ConvNeXt-V2's GRN), and no gate.
    """
    if ops.name_of(node) != "mul":
        return False
    nodes = [_before_expansion(arg) for arg in ops.operands(node) if isinstance(arg, fx.Node)]
    tensors = [ops.tensor_of(arg) for arg in nodes]
    if len(nodes) != 2 or tensors[0] is None or tensors[1] is None:
        return False
    by_size = sorted(zip(tensors, nodes, strict=True), key=lambda pair: pair[0].numel() if pair[0] is not None else 0)
    (gate, gate_node), (scaled, scaled_node) = by_size
    if gate is None or scaled is None or gate.ndim != scaled.ndim or scaled.ndim < 3:
        return False
    squeezed = gate.shape[2:].numel() == 1 < scaled.shape[2:].numel() and gate.shape[1] == scaled.shape[1]
    squeezed_last = gate.shape[1:-1].numel() == 1 < scaled.shape[1:-1].numel() and gate.shape[-1] == scaled.shape[-1]
    if not (squeezed or squeezed_last) or not flow.depends_on_data(gate_node):
        return False
    return any(_judges(flow.owner, node) for node in flow.private(gate_node, scaled_node))


def _judges(owner: nn.Module, node: fx.Node) -> bool:
    """Does more than statistics: has weights, squashes, or comes from where nobody looks."""
    module = ops.module_of(owner, node)
    if module is not None and any(True for _ in (*module.parameters(), *module.children())):
        return True
    return node.op == "placeholder" or ops.is_activation(owner, node) or ops.weight(owner, node) > 0


def _before_expansion(node: fx.Node) -> fx.Node:
    """``g`` of ``g.expand_as(x)``."""
    while ops.name_of(node) in ("expand", "expand_as", "broadcast_to") and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node
