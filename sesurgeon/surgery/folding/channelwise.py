"""Operations that the factors of a tensor pass: one factor for all, or one a channel.

What one factor passes is in :mod:`sesurgeon.surgery.folding.homogeneous`. Of that, factors by channel pass what works
on each channel alone (an activation, a pooling over places), and what moves channels in a way that is known (a
permutation of dimensions, a concatenation).
"""

from __future__ import annotations

import re

from torch import fx, nn

from sesurgeon.graph import ops
from sesurgeon.surgery.folding import homogeneous
from sesurgeon.surgery.folding.scale import Scale

Way = tuple[tuple[fx.Node, Scale], ...]
"""Nodes that must all be multiplied, and what by."""

_MIXES = re.compile(r"Shuffle|Unshuffle|Permute|Flatten|Unflatten")
_KEEPS = re.compile(rf"{homogeneous.ON_EACH_CHANNEL}|add|sub|mul|div|pad")


def ways_back(owner: nn.Module, node: fx.Node, scale: Scale) -> list[Way]:
    """What has to be multiplied so that the value of ``node`` is multiplied by ``scale``.

    Args:
        owner: the module whose local graph holds ``node``.
        node: a call of a leaf module, of a function or of a method.
        scale: see :class:`Scale`; factors that are no power of two pass but for rounding.

    Returns:
        The ways to do it; empty where none is known.
    """
    ways = homogeneous.ways_back(owner, node)
    if scale.dim is None:
        return [tuple((operand, scale) for operand in way) for way in ways]
    if not scale.fits(ops.tensor_of(node)):
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


def _scale_before(owner: nn.Module, node: fx.Node, scale: Scale) -> Scale | None:
    """The factors of what the operation works on; None where they would not stay those of channels."""
    assert scale.dim is not None  # one factor has no channels
    order = ops.permutation(owner, node)
    if order is not None:
        return scale.along(order[scale.dim] - len(order))
    module = ops.module_of(owner, node)
    keeps = _KEEPS.fullmatch(ops.name_of(node)) if module is None else not _MIXES.search(type(module).__name__)
    return scale if keeps else None


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
