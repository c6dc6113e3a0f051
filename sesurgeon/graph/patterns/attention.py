"""Attention that is there already: products of a tensor and a gate computed from it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx, nn

from sesurgeon.graph import ops
from sesurgeon.graph.flow import Flow
from sesurgeon.paths import is_within, join

Gated = Mapping[fx.Node, fx.Node]
"""The products of a tensor and a gate in one graph, and the tensor that each scales."""


def gated(flow: Flow) -> Gated:
    """Each product of a tensor and a gate, and the tensor that it scales."""
    scaled = {node: _scaled_by_gate(flow, node) for node in flow.nodes}
    return {node: tensor for node, tensor in scaled.items() if tensor is not None}


def attention_modules(gates: Mapping[str, Gated], named: frozenset[str]) -> frozenset[str]:
    """Paths of the modules that gate a tensor.

    Args:
        gates: path of a module -> what is :func:`gated` in its graph.
        named: paths of the modules that are known as attention by their class names.
    """
    return named | {path for path, found in gates.items() if found}


def gates_its_input(gates: Mapping[str, Gated], named: frozenset[str]) -> frozenset[str]:
    """Those of :func:`attention_modules` that scale what they are given, and not what they compute from it."""
    return named | {
        path for path, found in gates.items() if any(scaled.op == "placeholder" for scaled in found.values())
    }


def attention_in(
    branch: frozenset[fx.Node], flow: Flow, path: str, found: Gated, attention: frozenset[str]
) -> str | None:
    """What gates a tensor within ``branch``: the path of a module, or ``path`` itself; None where nothing does.

    Args:
        branch: nodes of the graph of the module at ``path``, whose flow is ``flow``.
        flow, path: of that graph.
        found: what is :func:`gated` in it.
        attention: paths of the modules that gate a tensor.
    """
    for node in flow.nodes:
        if node not in branch:
            continue
        if node in found:
            return path
        if node.op == "call_module":
            called = join(path, node.target)
            for candidate in sorted(attention):
                if is_within(candidate, called):
                    return candidate
    return None


def attended(flow: Flow, path: str, found: Gated, gates: frozenset[str]) -> dict[fx.Node, str]:
    """The tensors in one graph that are gated right away, and what does it: a module, or ``path`` itself.

    Args:
        flow, path, found: as for :func:`attention_in`.
        gates: paths of the modules that scale what they are given.
    """
    by: dict[fx.Node, str] = {}
    for node in flow.nodes:
        called = join(path, node.target)
        if node.op == "call_module" and called in gates:
            gate, scaled = called, ops.operand(node)
        elif node in found:
            gate, scaled = path, found[node]
        else:
            continue
        while isinstance(scaled, fx.Node):
            by.setdefault(scaled, gate)
            scaled = ops.operand(scaled) if ops.is_noise_or_scale(flow.owner, scaled) else None
    return by


def _scaled_by_gate(flow: Flow, node: fx.Node) -> fx.Node | None:
    """``x`` of ``x * g`` where g has one factor a channel and is computed from data; None for any other node.

    g may be squeezed from x, or come from elsewhere; but a norm's factors, statistics of x alone, are no gate
    (instance norm, ConvNeXt-V2's GRN), nor are those of a conditional norm.
    """
    if ops.name_of(node) != "mul":
        return None
    factors = [factor for factor in ops.operands(node) if isinstance(factor, fx.Node)]
    sized = [(tensor, factor) for factor in factors if (tensor := ops.tensor_of(_before_expansion(factor))) is not None]
    if len(sized) != 2:
        return None
    (gate, gate_node), (scaled, scaled_node) = sorted(sized, key=lambda pair: pair[0].numel())
    if gate.ndim != scaled.ndim or scaled.ndim < 3:
        return None
    squeezed = gate.shape[2:].numel() == 1 < scaled.shape[2:].numel() and gate.shape[1] == scaled.shape[1]
    squeezed_last = gate.shape[1:-1].numel() == 1 < scaled.shape[1:-1].numel() and gate.shape[-1] == scaled.shape[-1]
    gate_node = _before_expansion(gate_node)
    if not (squeezed or squeezed_last) or not flow.depends_on_data(gate_node):
        return None
    computed = flow.private(gate_node, _before_expansion(scaled_node))
    if _is_shifted(flow, node) and not any(ops.is_bounded(flow.owner, part) for part in computed):
        return None
    return scaled_node if any(_judges(flow.owner, part) for part in computed) else None


def _is_shifted(flow: Flow, product: fx.Node) -> bool:
    """Whether one number a channel is added to the product, and to nothing else: the affine layer of a norm.

    Where the numbers are computed it is conditional (FiLM, AdaIN, BigGAN's batch norm, diffusion's scale and shift).
    """
    following = ops.only_user(product)
    if following is None or ops.joins(following) != "add":
        return False
    tensors = [ops.tensor_of(one) for one in ops.operands(following) if one is not product]
    sums, shifts = ops.tensor_of(following), [one for one in tensors if one is not None]
    if sums is None or len(shifts) != 1 or shifts[0].ndim != sums.ndim:
        return False
    (shift,) = shifts
    return 1 in (shift.shape[2:].numel(), shift.shape[1:-1].numel()) and shift.numel() < sums.numel()


def _judges(owner: nn.Module, node: fx.Node) -> bool:
    """Whether ``node`` does more than statistics: it has weights, squashes, or comes from outside of the graph."""
    module = ops.module_of(owner, node)
    if module is not None and not (ops.is_leaf(module) and next(module.parameters(), None) is None):
        return True
    return node.op == "placeholder" or ops.is_activation(owner, node) or ops.weight(owner, node) > 0


def _before_expansion(node: fx.Node) -> fx.Node:
    """``g`` of ``g.expand_as(x)``."""
    while ops.name_of(node) in ("expand", "expand_as", "broadcast_to"):
        source = ops.operand(node)
        if not isinstance(source, fx.Node):
            break
        node = source
    return node
