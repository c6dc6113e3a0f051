"""Operations that a power of two passes through: ``f(s * x) == s * f(x)``, bit for bit.

Multiplying by a power of two changes the exponent of a float alone, and sums, products, maxima and averages commute
with that. SiLU, GELU, ReLU6, sigmoids and norms are not among them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules import dropout, pooling

from sesurgeon.graph import ops

_LEAVES = (  # a Sequential among them is an empty one
    nn.Sequential, nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.Identity, nn.Flatten, nn.Unflatten, nn.Upsample,
    nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle, nn.ZeroPad2d, dropout._DropoutNd,
    pooling._MaxPoolNd, pooling._AvgPoolNd, pooling._AdaptiveMaxPoolNd, pooling._AdaptiveAvgPoolNd,
)  # fmt: skip
_LEAF_NAMES = re.compile(r"Pool|Permute|Shuffle")  # timm's and torchvision's own
ON_EACH_CHANNEL = (
    r"(leaky_|p)?relu|(feature_)?dropout[123]?d?|drop_path|stochastic_depth|(adaptive_)?(avg|max)_pool[123]d|"
    r"interpolate|contiguous|clone|to|float|neg"
)
"""Names of functions and methods (a pattern) that leave channels where they are."""
_FUNCTIONS = re.compile(
    rf"{ON_EACH_CHANNEL}|pixel_(un)?shuffle|(native_)?channel_shuffle|(un)?flatten|reshape|view|permute|transpose|"
    r"movedim|(un)?squeeze|sum|mean"
)
_WEIGHT_AND_BIAS: Mapping[Callable[..., Any], tuple[int, int]] = MappingProxyType(
    {
        **dict.fromkeys((F.conv1d, F.conv2d, F.conv3d, F.linear), (1, 2)),
        **dict.fromkeys((F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), (1, 2)),
        **dict.fromkeys((F.group_norm, F.layer_norm), (2, 3)),
        F.batch_norm: (3, 4),
    }
)
"""Their positions among the arguments."""


def ways_back(owner: nn.Module, node: fx.Node) -> list[tuple[fx.Node, ...]]:
    """What has to be multiplied by a power of two so that the value of ``node`` is multiplied by it.

    Args:
        owner: the module whose local graph holds ``node``.
        node: a call of a leaf module, of a function or of a method.

    Returns:
        The ways to do it, each the nodes that must all be multiplied; empty where none is known.
    """
    tensor, name, operands = ops.tensor_of(node), ops.name_of(node), ops.operands(node)
    if tensor is None or not tensor.is_floating_point():
        return []
    if name in ("cat", "stack"):
        return [joined] if (joined := ops.joined(node)) else []
    if not (operands and isinstance(operands[0], fx.Node)):
        return []
    if name in ("add", "sub"):
        return [operands] if len(operands) == 2 and isinstance(operands[1], fx.Node) else []
    if name == "mul":
        factors = [one for one in operands if isinstance(one, fx.Node) and ops.tensor_of(one) is not None]
        return [(factor,) for factor in factors if factors.count(factor) == 1]
    return [operands[:1]] if _passes_first_operand(owner, node, operands) else []


def _passes_first_operand(owner: nn.Module, node: fx.Node, operands: Sequence[Any]) -> bool:
    module, name = ops.module_of(owner, node), ops.name_of(node)
    if module is not None:  # called by position, as the trials call it
        known = isinstance(module, _LEAVES) or _LEAF_NAMES.search(type(module).__name__)
        return bool(known or ops.is_noise_or_scale(owner, node)) and node.args.count(operands[0]) == 1
    if name == "div":
        return "rounding_mode" not in node.kwargs and operands.count(operands[0]) == 1
    if name == "pad":
        return not node.kwargs.get("value", node.args[3] if len(node.args) > 3 else None)
    return ops.is_slice(node) or bool(_FUNCTIONS.fullmatch(name))


def output_channels(node: fx.Node) -> int | None:
    """The dimension of the channels, counted from the back, in what a functional layer gives.

    None where the rows of its weight are not these channels.
    """
    tensor = ops.tensor_of(node)
    if tensor is None or ops.name_of(node).startswith("conv_transpose"):
        return None
    return -1 if ops.name_of(node) in ("linear", "layer_norm") else 1 - tensor.ndim


def function_weights(node: fx.Node) -> tuple[Any, Any] | None:
    """The (weight, bias) arguments of a functional convolution, linear layer or norm; None for anything else."""
    places = _WEIGHT_AND_BIAS.get(node.target) if callable(node.target) else None
    if places is None:
        return None
    weight, bias = (
        node.kwargs.get(name, node.args[place] if len(node.args) > place else None)
        for name, place in zip(("weight", "bias"), places, strict=True)
    )
    return weight, bias


def module_weights(module: nn.Module) -> dict[str, Tensor] | None:
    """The weight and bias of a convolution, linear layer or norm (some norms keep them as buffers).

    Empty where it has none; None for a module of another kind.
    """
    if not (ops.is_conv(module) or ops.is_norm(module) or isinstance(module, nn.Linear)):
        return None
    own = {**module._parameters, **module._buffers}
    tensors = {name: own.get(name) for name in ("weight", "bias")}
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}
