"""Where the channels of a tensor are: first (N, C, H, W) or last (N, H, W, C)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx, nn
from torch.nn.modules.batchnorm import _NormBase

from sesurgeon.graph import ops
from sesurgeon.paths import join

_FIRST = ("conv", "batch_norm", "instance_norm", "group_norm", "max_pool", "avg_pool", "adaptive_", "interpolate",
          "pixel_shuffle", "pixel_unshuffle")  # fmt: skip
_LAST = ("linear", "layer_norm")


def channel_dim(model: nn.Module, graphs: Mapping[str, fx.Graph], path: str, node: fx.Node) -> int:
    """1 where the channels of ``node``'s tensor come first, -1 where they come last.

    Follows the tensor back to the layer that made it, through elementwise operations and permutations, into child
    modules. Where reshapes hide that layer (Swin's windows), the last layer before decides, provided that its last
    dimension is as long as the tensor's. Without any layer, channels are taken to come first, as from convolutions.

    Args:
        model: the network.
        graphs: local graphs by module path.
        path: of the module whose graph holds ``node``.
        node: a node with a tensor value.
    """
    return _resolve(model, graphs, path, node) or _last_layer(model, graphs, path, node) or 1


def _last_layer(model: nn.Module, graphs: Mapping[str, fx.Graph], path: str, node: fx.Node) -> int | None:
    tensor, above = ops.tensor_of(node), node.prev
    while tensor is not None and above.op != "root":
        made, other = ops.tensor_of(above), None
        if made is not None and above.op == "call_module":
            other = _resolve(model, graphs, path, above)
        if made is not None and other is not None:
            return -1 if other == -1 and made.shape[-1] == tensor.shape[-1] else 1
        above = above.prev
    return None


def _resolve(model: nn.Module, graphs: Mapping[str, fx.Graph], path: str, node: fx.Node) -> int | None:
    owner = model.get_submodule(path)
    source = _source(node)
    order = ops.permutation(owner, node)
    if order is not None:
        before = _resolve(model, graphs, path, source) if source is not None else None
        return _permuted(order, before or 1)
    known = _made_by_module(owner, node) if node.op == "call_module" else _made_by_function(ops.name_of(node))
    if known is None and node.op == "call_module":
        known = _inside(model, graphs, join(path, node.target))
    if known is None and source is not None:
        known = _resolve(model, graphs, path, source)
    return known


def _source(node: fx.Node) -> fx.Node | None:
    """The first operand of the same rank: the tensor that an elementwise operation passes on."""
    tensor = ops.tensor_of(node)
    for parent in node.all_input_nodes:
        other = ops.tensor_of(parent)
        if tensor is not None and other is not None and other.ndim == tensor.ndim:
            return parent
    return None


def _made_by_module(owner: nn.Module, node: fx.Node) -> int | None:
    module = ops.module_of(owner, node)
    if module is None:
        return None
    if ops.is_conv(module) or isinstance(module, (_NormBase, nn.GroupNorm, nn.PixelShuffle)):
        return 1
    if "Pool" in type(module).__name__ or "2d" in type(module).__name__:  # timm's LayerNorm2d is a nn.LayerNorm too
        return 1
    return -1 if isinstance(module, (nn.Linear, nn.LayerNorm)) else None


def _made_by_function(name: str) -> int | None:
    if name.startswith(_FIRST):
        return 1
    return -1 if name.startswith(_LAST) else None


def _inside(model: nn.Module, graphs: Mapping[str, fx.Graph], path: str) -> int | None:
    graph = graphs.get(path)
    result = list(graph.nodes)[-1].args[0] if graph is not None else None
    return _resolve(model, graphs, path, result) if isinstance(result, fx.Node) else None


def _permuted(order: tuple[int, ...], before: int) -> int | None:
    channels = 1 if before == 1 else len(order) - 1
    after = order.index(channels) if channels in order else None
    if after == 1:
        return 1
    return -1 if after == len(order) - 1 else None
