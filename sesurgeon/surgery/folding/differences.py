"""How far the outputs of two networks are apart, where rounding sets them apart."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

_TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-3}  # up to 3e-5 was seen, on MobileNetV2 in train mode
_OF_HALF = 2e-2


def relative_difference(ours: Any, theirs: Any) -> tuple[float, float]:
    """The largest difference as a share of the largest output, and how much of it rounding explains.

    Infinite for outputs of other shapes or types; NaN where one has no number and the other has.

    Args:
        ours, theirs: outputs of any structure.
    """
    first, second = ([leaf for leaf in tree_leaves(one) if isinstance(leaf, Tensor)] for one in (ours, theirs))
    if [(leaf.shape, leaf.dtype) for leaf in first] != [(leaf.shape, leaf.dtype) for leaf in second]:
        return float("inf"), 0.0
    pairs = [(_as_double(a), _as_double(b)) for a, b in zip(first, second, strict=True) if a.numel()]
    differences = [(a - b).masked_fill(_alike(a, b), 0).abs().max() for a, b in pairs]
    difference = float(torch.stack(differences).max()) if pairs else 0.0  # NaN stays NaN, which max() may lose
    size = max((float(b[b.isfinite()].abs().max()) for _, b in pairs if b.isfinite().any()), default=0.0)
    floats = [leaf.dtype for leaf in first if leaf.is_floating_point()]
    allowed = max((_TOLERANCES.get(dtype, _OF_HALF) for dtype in floats), default=_OF_HALF)
    return difference / size if size else difference, allowed


def _as_double(values: Tensor) -> Tensor:
    return (torch.view_as_real(values) if values.is_complex() else values).double()


def _alike(a: Tensor, b: Tensor) -> Tensor:
    """Where both are the same number, the same infinity, or no number."""
    return (a == b) | (a.isnan() & b.isnan())
