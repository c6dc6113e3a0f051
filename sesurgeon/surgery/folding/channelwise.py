"""Operations that the factors of a tensor pass through: one factor for all, or one for each channel.

Those for one factor are in :mod:`sesurgeon.surgery.folding.homogeneous`. Of these, factors of channels pass through
what works on each channel alone (an activation, a pooling over places), and through what moves channels in a known way
(a permutation of dimensions, a flattening of places, a mean over them, a concatenation).
"""

from __future__ import annotations

import math
import re

from torch import Tensor, fx, nn

from sesurgeon.graph import ops
from sesurgeon.surgery.folding import homogeneous
from sesurgeon.surgery.folding.scale import Scale

Way = tuple[tuple[fx.Node, Scale], ...]
"""Nodes that must all be multiplied, and by what."""

_MIXES = re.compile(r"Shuffle|Unshuffle|Permute|Flatten|Unflatten")
_KEEPS = re.compile(rf"{homogeneous.ON_EACH_CHANNEL}|add|sub|mul|div|pad")
_RESHAPES = re.compile(r"(un)?flatten|reshape|view|(un)?squeeze")
_REDUCES = re.compile(r"sum|mean")


def ways_back(owner: nn.Module, node: fx.Node, scale: Scale) -> list[Way]:
    """What has to be multiplied so that the value of ``node`` is multiplied by ``scale``.

    Args:
        owner: the module whose local graph holds ``node``.
        node: a call of a leaf module, of a function or of a method.
        scale: see :class:`Scale`; factors that are not powers of two pass up to rounding.

    Returns:
        The ways to do it; empty where none is known.
    """
    ways = homogeneous.ways_back(owner, node)
    if scale.dim is None:
        return [tuple((operand, scale) for operand in way) for way in ways]
    if not (ways and scale.fits(ops.tensor_of(node))):
        return []
    if ops.name_of(node) == "cat":
        return [way for operands in ways if (way := _parts(node, operands, scale))]
    before = _scale_before(owner, node, scale)
    if before is None:
        return []
    return [
        tuple((operand, before) for operand in way)
        for way in ways
        if all(before.fits(ops.tensor_of(operand)) for operand in way)
    ]


def way_on(owner: nn.Module, node: fx.Node, given: fx.Node, scale: Scale) -> Scale | None:
    """Forward direction: if ``given`` is multiplied by ``scale``, by what is ``node``'s value multiplied?

    None if unknown.
    """
    tensor = ops.tensor_of(node)
    rank = 0 if tensor is None else tensor.ndim
    moved = [scale.along(dim) for dim in range(-rank, 0)]
    return next((after for after in moved if ((given, scale),) in ways_back(owner, node, after)), None)


def _scale_before(owner: nn.Module, node: fx.Node, scale: Scale) -> Scale | None:
    """The factors of the operation's input; None where they would not be factors of its channels."""
    assert scale.dim is not None  # one factor has no channels
    order = ops.permutation(owner, node)
    if order is not None:
        return scale.along(order[scale.dim] - len(order))
    module, name = ops.module_of(owner, node), ops.name_of(node)
    if isinstance(module, (nn.Flatten, nn.Unflatten)) or _RESHAPES.fullmatch(name):
        return _before_reshape(node, scale)
    if _REDUCES.fullmatch(name):
        return _before_reduction(node, scale)
    keeps = _KEEPS.fullmatch(name) if module is None else not _MIXES.search(type(module).__name__)
    return scale if keeps else None


def _before_reshape(node: fx.Node, scale: Scale) -> Scale | None:
    """Elements keep their order: channels are the dimension with as many entries of as many elements in a row."""
    before, after = ops.tensor_of(ops.operand(node)), ops.tensor_of(node)
    if before is None or after is None or scale.dim is None:
        return None
    dims = [dim for dim in range(-before.ndim, 0) if _row(before, dim) == _row(after, scale.dim)]
    return scale.along(dims[0]) if dims else None


def _row(tensor: Tensor, dim: int) -> tuple[int, int]:
    """How many entries the dimension has, and how many elements of each are in a row."""
    return tensor.shape[dim], math.prod(tensor.shape[tensor.ndim + dim + 1 :])


def _before_reduction(node: fx.Node, scale: Scale) -> Scale | None:
    """Channels are still there after a sum or mean over other dimensions."""
    before, after = ops.tensor_of(ops.operand(node)), ops.tensor_of(node)
    given = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
    dims = given if isinstance(given, (list, tuple)) else (given,)
    if before is None or after is None or scale.dim is None or not all(isinstance(dim, int) for dim in dims):
        return None
    gone = {dim % before.ndim for dim in dims}
    kept = [dim for dim in range(before.ndim) if dim not in gone or after.ndim == before.ndim]
    return None if kept[scale.dim] in gone else scale.along(kept[scale.dim] - before.ndim)


def _parts(node: fx.Node, operands: tuple[fx.Node, ...], scale: Scale) -> Way | None:
    """Each operand of a concatenation with its own part of the factors."""
    tensor = ops.tensor_of(node)
    if tensor is None or ops.cat_dim(node) - tensor.ndim != scale.dim:
        return None
    parts, start = [], 0
    for operand in operands:
        joined = ops.tensor_of(operand)
        if joined is None:
            return None
        end = start + joined.shape[scale.dim]
        parts.append((operand, scale.with_values(scale.values[start:end])))
        start = end
    return tuple(parts)
