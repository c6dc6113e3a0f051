"""Parallel convolutions and their sum: one convolution in its training clothes (RepVGG, MobileOne, RepViT)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx
from torch.nn.modules.conv import _ConvNd

from sesurgeon.graph import ops
from sesurgeon.graph.candidates import Candidate
from sesurgeon.graph.flow import Flow
from sesurgeon.graph.patterns.units import unit_candidate, unit_from
from sesurgeon.paths import join


def parallel_convolutions(flows: Mapping[str, Flow], path: str) -> list[Candidate]:
    """Sums of parallel convolutions that RepVGG-style re-parameterisation merges into one; each is treated as one unit.

    All summands come from one tensor, through a convolution with its norm, a norm alone, or nothing; and there are at
    least two convolutions, or a norm alone beside one (a tensor plus its convolution is a residual block). The unit
    includes the norm and activation that follow the sum, and its summands are no units of their own
    (`RepVGG <https://arxiv.org/abs/2101.03697>`_, section 3; RepVGG and MobileOne have their own SE after the sum).

    Args:
        flows: path of a module -> the flow in its graph.
        path: of the module to look at.
    """
    flow = flows[path]
    found: list[Candidate] = []
    for node in reversed(flow.nodes):  # the outermost sum first: it holds the others
        summands = _summands(flow, node)
        if len(summands) < 2 or any(node in one.branch for one in found):
            continue
        shared = flow.shared(summands)
        own = flow.upto(node) - shared
        if not _is_one_convolution(flows, path, summands, shared):
            continue
        convolution = _largest(flow, own)
        if convolution is not None:
            unit = unit_from(flow, node)
            found.append(unit_candidate(unit[-1], own | frozenset(unit), *convolution))
    return found[::-1]


def _summands(flow: Flow, node: fx.Node) -> list[fx.Node]:
    """The tensors that a sum, or a sum of sums, adds up; [] where the node is no sum of tensors."""
    if ops.joins(node) != "add":
        return []
    found: list[fx.Node] = []
    for operand in ops.operands(node):
        if isinstance(operand, fx.Node):
            inner = _inner_sum(flow, operand, node)
            found += (inner is not None and _summands(flow, inner)) or [operand]
        elif operand != 0:  # from which a sum in a loop starts
            return []
    return found


def _inner_sum(flow: Flow, node: fx.Node, user: fx.Node) -> fx.Node | None:
    """``node``, without the drop-path on it; None where anything but ``user`` reads it."""
    if ops.only_user(node) is not user:
        return None
    source = ops.operand(node) if ops.is_noise_or_scale(flow.owner, node) else None
    return _inner_sum(flow, source, node) if isinstance(source, fx.Node) else node


def _is_one_convolution(
    flows: Mapping[str, Flow], path: str, summands: list[fx.Node], shared: frozenset[fx.Node]
) -> bool:
    flow = flows[path]
    branches = [flow.upto(summand) - shared for summand in summands]
    entries = {parent for branch in branches for node in branch for parent in flow.parents(node) if parent in shared}
    entries |= {summand for summand in summands if summand in shared}
    convolutions = [flow.weight(branch) for branch in branches]
    norms_alone = sum(
        weight == 0 and any(map(flow.ends_in_norm, branch))
        for weight, branch in zip(convolutions, branches, strict=True)
    )
    return (
        len(entries) == 1
        and max(convolutions) == 1
        and sum(convolutions) + norms_alone >= 2
        and all(_is_affine(flows, path, node) for branch in branches for node in branch)
    )


def _is_affine(flows: Mapping[str, Flow], path: str, node: fx.Node) -> bool:
    """Whether ``node`` consists of nothing but convolutions, norms, noise and sums."""
    module = ops.module_of(flows[path].owner, node)
    if module is None or ops.joins(node) == "add":
        return node.op in ("placeholder", "output") or ops.joins(node) == "add"
    if ops.is_conv(module) or ops.is_noise_or_scale(flows[path].owner, node) or ops.is_norm(module):
        return not ops.has_activation(module)
    inside = join(path, node.target)
    return inside in flows and all(_is_affine(flows, inside, part) for part in flows[inside].nodes)


def _largest(flow: Flow, nodes: frozenset[fx.Node]) -> tuple[str, _ConvNd] | None:
    """The convolution with the largest kernel, after its path; None where there is none of torch's own."""
    convolutions = {
        join(str(node.target), path): part
        for node in flow.nodes
        if node in nodes and node.op == "call_module"
        for path, part in flow.owner.get_submodule(str(node.target)).named_modules()
        if isinstance(part, _ConvNd)
    }
    return max(convolutions.items(), key=lambda named: max(named[1].kernel_size), default=None)
