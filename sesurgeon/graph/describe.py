"""From a candidate, a place in one local graph, to the site that users see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import fx, nn
from torch.nn.modules.conv import _ConvNd

from sesurgeon.graph import ops
from sesurgeon.graph.candidates import Candidate
from sesurgeon.graph.flow import Flow
from sesurgeon.graph.layout import channel_dim
from sesurgeon.graph.outputs import Calls, calls_in, is_returned
from sesurgeon.graph.paths import is_within, join
from sesurgeon.graph.patterns import attended, attention_in, attention_modules, gates_its_input
from sesurgeon.graph.site import Site
from sesurgeon.graph.tensors import tensor_name
from sesurgeon.graph.tracing.local import LocalGraphs

_FEW_CHANNELS = 3  # an image's: depth, a mask, flow; a feature map has more


@dataclass(frozen=True)
class Network:
    """What is known of a network as a whole, in eval mode.

    Attributes:
        local: its local graphs.
        flows: module path -> the flow in that module's graph.
        calls: module path -> the calls of that module.
        attention: paths of the modules that gate a tensor.
        gates: those of them that scale what they are given.
        attended: name of a tensor -> what gates it right away.
        image: the sides of the input, in pixels; () where not known.
    """

    local: LocalGraphs
    flows: Mapping[str, Flow]
    calls: Calls
    attention: frozenset[str]
    gates: frozenset[str]
    attended: Mapping[str, str]
    image: tuple[int, ...]


def network_of(local: LocalGraphs, flows: Mapping[str, Flow], image: tuple[int, ...]) -> Network:
    """Find the attention that is in a network already."""
    attention = attention_modules(local.model, flows)
    gates = gates_its_input(local.model, flows)
    gated = {
        tensor_name(local, path, node): by
        for path, flow in flows.items()
        for node, by in attended(flow, path, gates).items()
    }
    return Network(local, flows, calls_in(local.model, flows), attention, gates, gated, image)


def describe(network: Network, path: str, candidate: Candidate, host: str | None) -> Site | None:
    """The site of ``candidate``, not numbered yet; None where its tensor has no places to squeeze (tokens, vectors).

    Args:
        network: around it.
        path: of the module whose graph the candidate is in.
        candidate: the place.
        host: path of the module that takes the block at its own output; None: the one at ``path`` does.
    """
    local, flow = network.local, network.flows[path]
    tensor = ops.tensor_of(candidate.node)
    if tensor is None or tensor.ndim not in (3, 4, 5) or not tensor.is_floating_point():
        return None
    owner = path if host is None else host
    # all around a branch is laid out as its end; an argument alone does not tell
    dim = channel_dim(local.model, local.graphs, path, (candidate.of or candidate).node)
    called = [node for node in flow.nodes if node in candidate.branch and node.op == "call_module"]
    if tensor.ndim == 3 and not _is_convolutional(local.model, flow.owner, called, dim):
        return None
    places = tensor.shape[2:] if dim == 1 else tensor.shape[1:-1]
    if candidate.kind == "conv" and places.numel() == 1 and _is_fully_connected(flow.owner, candidate):
        return None
    name = tensor_name(local, path, candidate.node)
    few = tensor.shape[dim] <= _FEW_CHANNELS
    return Site(
        id=f"{owner or '.'}:{candidate.kind}",
        owner=owner,
        kind=candidate.kind,
        follows=ops.name_of(candidate.node) or str(candidate.node.target),
        tensor=name,
        shape=tuple(tensor.shape),
        channel_dim=dim,
        stride=_stride(network.image, places, dim),
        has_skip=candidate.has_skip,
        summed=candidate.summed,
        residual=None,
        convolution=None if candidate.convolution is None else join(path, candidate.convolution),
        kernel_size=candidate.kernel_size,
        depthwise=candidate.depthwise,
        branch=tuple(join(path, node.target) for node in called),
        attention=attention_in(candidate.branch, flow, path, network.attention)
        or network.attended.get(name)
        or _gate_before(network, path, candidate)
        or (_gate_around(network, path) if candidate.kind == "conv" else None),
        calls=local.times_called[owner],
        shapes=_shapes(local, path, candidate.node) or (tuple(tensor.shape),) * local.times_called[owner],
        returned=few and _corrects_the_input(network, path, candidate)
        if candidate.kind == "residual"
        else (few or ops.is_bounded(flow.owner, candidate.node))
        and is_returned(network.flows, network.calls, path, candidate.node),
    )


def _corrects_the_input(network: Network, path: str, candidate: Candidate) -> bool:
    """Whether a branch ends in a bare convolution, its sum with the network's own input is returned, and that is all.

    So do networks that restore images (`VDSR <https://arxiv.org/abs/1511.04587>`_): the branch is all of them.
    """
    flow = network.flows[path]
    if path or candidate.join is None or candidate.shortcut is None:
        return False
    module = ops.module_of(flow.owner, candidate.node)
    ends_bare = module is not None and ops.is_conv([*ops.parts_of(module)][-1])
    from_input = flow.weight(flow.upto(candidate.shortcut)) == 0
    return ends_bare and from_input and is_returned(network.flows, network.calls, path, candidate.join)


def _shapes(local: LocalGraphs, path: str, node: fx.Node) -> tuple[tuple[int, ...], ...]:
    """Of the tensor of ``node``, in each call of the module at ``path``; () where none of its children tells."""
    made, tensor = node, ops.tensor_of(node)
    while made.op != "call_module":  # an operation keeps the shape of what a child gave
        source = ops.operand(made)
        other = ops.tensor_of(source)
        if tensor is None or other is None or other.shape != tensor.shape or not isinstance(source, fx.Node):
            return ()
        made = source
    shapes = local.shapes.get(join(path, made.target), ())  # a module of several paths is known by one of them
    return shapes if len(shapes) == local.times_called[path] else ()


def _is_fully_connected(owner: nn.Module, candidate: Candidate) -> bool:
    """Is it a linear layer in the form of a convolution: a layer of a gate (kernel 1), or of timm's VGG (kernel 7)?

    Of a map of a single place it is one that moves by one and pads nothing: its kernel covers all that it sees.
    """
    convolution = owner.get_submodule(candidate.convolution or "")
    covers = isinstance(convolution, _ConvNd) and set(convolution.stride) == {1} and set(convolution.padding) == {0}
    return covers or max(candidate.kernel_size) == 1


def _gate_before(network: Network, path: str, candidate: Candidate) -> str | None:
    """The attention in a caller, where branch and shortcut come in as arguments (Hugging Face's EfficientNet)."""
    residual, flow = candidate.of or candidate, network.flows[path]
    if residual.shortcut is None:
        return None
    for caller, call in network.calls.get(path, []):
        above = network.flows[caller]
        given = above.behind(flow.arguments(call, residual.branch))
        shared = above.behind(flow.arguments(call, flow.upto(residual.shortcut)))
        gate = attention_in(given - shared, above, caller, network.attention) if given and shared else None
        if gate is not None:
            return gate
    return None


def _gate_around(network: Network, path: str) -> str | None:
    """The attention that the module at ``path`` is a part of: its own convolutions are no places."""
    return next((gate for gate in sorted(network.gates) if gate and is_within(path, gate)), None)


def _is_convolutional(model: nn.Module, owner: nn.Module, branch: list[fx.Node], dim: int) -> bool:
    """Whether three dimensions are a signal (N, C, L), or tokens (N, L, C) that a branch with convolutions made.

    Such are the feed-forward layers of PVTv2; those of ViT have none, and are no place for channel attention.
    """
    if dim == 1:
        return any(isinstance(part, nn.Conv1d) for part in model.modules())
    inside = [part for node in branch for part in owner.get_submodule(str(node.target)).modules()]
    return any(isinstance(part, _ConvNd) for part in inside)


def _stride(image: tuple[int, ...], places: torch.Size, dim: int) -> float:
    """The input's width over that of the map with these ``places``; 1 where the input is none.

    Channels-last maps may be tokens, or windows of them, which have the area of a map and not its sides.
    """
    if not image:
        return 1.0
    if dim == 1 or len(places) == 3:
        return image[-1] / places[-1]
    sides = image[-2:]
    return float((prod(sides) / places.numel()) ** (1 / len(sides)))
