"""From a candidate in one local graph to the site that users see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from sesurgeon.graph import ops
from sesurgeon.graph.candidates import Candidate
from sesurgeon.graph.channel_dim import channel_dim
from sesurgeon.graph.flow import Flow
from sesurgeon.graph.outputs import Calls, calls_in, is_factor, is_returned
from sesurgeon.graph.patterns import Gated, attended, attention_in, attention_modules, gated, gates_its_input
from sesurgeon.graph.site import Site
from sesurgeon.graph.tensors import tensor_name
from sesurgeon.graph.tracing.local_graphs import LocalGraphs
from sesurgeon.graph.tracing.passes import image_sides
from sesurgeon.paths import is_within, join

_FEW_CHANNELS = 3  # an image's: depth, a mask, flow; a feature map has more


@dataclass(frozen=True)
class Network:
    """What is known of a network as a whole, in eval mode.

    Attributes:
        local: its local graphs.
        flows: module path -> the flow in that module's graph.
        calls: module path -> the calls of that module.
        gated: module path -> the products of a tensor and a gate in that module's graph.
        attention: paths of the modules that gate a tensor.
        gates: those of them that scale what they are given.
        attended: name of a tensor -> path of the module that gates it right away.
        image: the sides of the input, in pixels; () where not known.
    """

    local: LocalGraphs
    flows: Mapping[str, Flow]
    calls: Calls
    gated: Mapping[str, Gated]
    attention: frozenset[str]
    gates: frozenset[str]
    attended: Mapping[str, str]
    image: tuple[int, ...]


def network_of(local: LocalGraphs, flows: Mapping[str, Flow]) -> Network:
    """What its graphs in eval mode tell of a network, with the attention that is in it already."""
    products = {path: gated(flow) for path, flow in flows.items()}
    named = frozenset(path for path, module in local.model.named_modules() if ops.is_attention(module))
    gates = gates_its_input(products, named)
    return Network(
        local=local,
        flows=flows,
        calls=calls_in(local.model, flows),
        gated=products,
        attention=attention_modules(products, named),
        gates=gates,
        attended={
            tensor_name(local, path, node): by
            for path, flow in flows.items()
            for node, by in attended(flow, path, products[path], gates).items()
        },
        image=image_sides(local),
    )


def describe(network: Network, path: str, candidate: Candidate, host: str | None) -> Site | None:
    """The site of ``candidate``, not numbered yet; None where its tensor is no feature map (tokens, vectors).

    Args:
        network: that it is in.
        path: of the module whose graph the candidate is in.
        candidate: the place.
        host: path of the module that gets the block at its own output; None where that at ``path`` gets it.
    """
    local, flow = network.local, network.flows[path]
    tensor = ops.tensor_of(candidate.node)
    if tensor is None or tensor.ndim not in (3, 4, 5) or not tensor.is_floating_point():
        return None
    owner = path if host is None else host
    # all around a branch is laid out as its end; an argument alone does not tell
    dim = channel_dim(local.model, local.graphs, path, (candidate.of or candidate).node)
    if not _can_be_scaled(network, path, candidate, tensor, dim):
        return None
    name = tensor_name(local, path, candidate.node)
    return Site(
        id=f"{owner or '.'}:{candidate.kind}",
        owner=owner,
        kind=candidate.kind,
        follows=ops.name_of(candidate.node) or str(candidate.node.target),
        tensor=name,
        shape=tuple(tensor.shape),
        channel_dim=dim,
        stride=_stride(network.image, _places(tensor, dim), dim),
        has_skip=candidate.has_skip,
        summed=candidate.summed,
        residual=None,
        convolution=None if candidate.convolution is None else join(path, candidate.convolution),
        kernel_size=candidate.kernel_size,
        depthwise=candidate.depthwise,
        branch=tuple(join(path, node.target) for node in _layers(flow, candidate)),
        attention=_attention(network, path, candidate, name),
        calls=local.times_called[owner],
        shapes=_shapes(local, path, candidate.node) or (tuple(tensor.shape),) * local.times_called[owner],
        returned=_is_result(network, path, candidate, few=tensor.shape[dim] <= _FEW_CHANNELS),
    )


def _layers(flow: Flow, candidate: Candidate) -> list[fx.Node]:
    """The calls of modules that compute the tensor, in order."""
    return [node for node in flow.nodes if node in candidate.branch and node.op == "call_module"]


def _places(tensor: Tensor, dim: int) -> torch.Size:
    """The spatial shape of a tensor with its channels in ``dim``, 1 or -1."""
    return tensor.shape[2:] if dim == 1 else tensor.shape[1:-1]


def _can_be_scaled(network: Network, path: str, candidate: Candidate, tensor: Tensor, dim: int) -> bool:
    """Whether ``tensor`` is a feature map: no mask of another, no tokens without convolutions, and no vector."""
    flow = network.flows[path]
    if candidate.kind == "conv" and _is_gate(network, path, candidate.node):
        return False
    if tensor.ndim == 3 and not _is_convolutional(network.local.model, flow.owner, _layers(flow, candidate), dim):
        return False
    in_one_place = candidate.kind == "conv" and _places(tensor, dim).numel() == 1
    return not (in_one_place and _is_fully_connected(flow.owner, candidate))


def _is_gate(network: Network, path: str, node: fx.Node) -> bool:
    """Whether ``node`` is a mask between 0 and 1 that only scales other tensors (a gated convolution's)."""
    return ops.is_gate(network.flows[path].owner, node) and is_factor(network.flows, network.calls, path, node)


def _attention(network: Network, path: str, candidate: Candidate, name: str) -> str | None:
    """Path of the module that gates the tensor of that name: in its branch, right after it, before or around it."""
    gates = (
        attention_in(candidate.branch, network.flows[path], path, network.gated[path], network.attention),
        network.attended.get(name),
        _gate_before(network, path, candidate),
        _gate_around(network, path) if candidate.kind == "conv" else None,
    )
    return next((gate for gate in gates if gate is not None), None)  # "" is the network itself


def _is_result(network: Network, path: str, candidate: Candidate, *, few: bool) -> bool:
    """Whether the network returns the tensor, with ``few`` channels or squashed; or returns the input so corrected."""
    if candidate.kind == "residual":
        return few and _corrects_the_input(network, path, candidate)
    result = few or ops.is_bounded(network.flows[path].owner, candidate.node)
    return result and is_returned(network.flows, network.calls, path, candidate.node)


def _corrects_the_input(network: Network, path: str, candidate: Candidate) -> bool:
    """Whether a branch ends in a bare convolution, and the network returns its sum with the network's own input.

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
    """The shape of ``node``'s tensor in each call of the module at ``path``; () where it is not known."""
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
    """Whether a convolution that gives a single place is a linear layer, as in a gate or timm's VGG (kernels 1 and 7).

    It is if it has stride 1 and no padding: its kernel covers all of its input then.
    """
    convolution = owner.get_submodule(candidate.convolution or "")
    covers = isinstance(convolution, _ConvNd) and set(convolution.stride) == {1} and set(convolution.padding) == {0}
    return covers or max(candidate.kernel_size) == 1


def _gate_before(network: Network, path: str, candidate: Candidate) -> str | None:
    """The attention in a caller that passes branch and shortcut as arguments (Hugging Face's EfficientNet)."""
    residual, flow = candidate.of or candidate, network.flows[path]
    if residual.shortcut is None:
        return None
    for caller, call in network.calls.get(path, []):
        above = network.flows[caller]
        given = above.behind(flow.arguments(call, residual.branch))
        shared = above.behind(flow.arguments(call, flow.upto(residual.shortcut)))
        branch, found = given - shared, network.gated[caller]
        gate = attention_in(branch, above, caller, found, network.attention) if given and shared else None
        if gate is not None:
            return gate
    return None


def _gate_around(network: Network, path: str) -> str | None:
    """The attention that the module at ``path`` is a part of, whose own convolutions are no places for a block."""
    return next((gate for gate in sorted(network.gates) if gate and is_within(path, gate)), None)


def _is_convolutional(model: nn.Module, owner: nn.Module, branch: list[fx.Node], dim: int) -> bool:
    """Whether three dimensions are a signal (N, C, L), or tokens (N, L, C) from a branch with convolutions.

    PVTv2's feed-forward layers have convolutions; ViT's have none, and are no place for channel attention.
    """
    if dim == 1:
        return any(isinstance(part, nn.Conv1d) for part in model.modules())
    inside = [part for node in branch for part in owner.get_submodule(str(node.target)).modules()]
    return any(isinstance(part, _ConvNd) for part in inside)


def _stride(image: tuple[int, ...], places: torch.Size, dim: int) -> float:
    """The input's width over that of the map with these ``places``; 1 where the input is no image.

    Channels-last maps may be tokens, or windows of them: of these only the area is comparable, not the sides.
    """
    if not image:
        return 1.0
    if dim == 1 or len(places) == 3:
        return image[-1] / places[-1]
    sides = image[-2:]
    return float((prod(sides) / places.numel()) ** (1 / len(sides)))
