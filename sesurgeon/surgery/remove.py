"""Taking the blocks out again."""

from __future__ import annotations

import copy

from torch import nn

from sesurgeon.models import remember
from sesurgeon.surgery.bare import check_uncovered, take_out
from sesurgeon.surgery.folding import multiply, takers
from sesurgeon.surgery.rewrite import blocks_of


def remove_se(model: nn.Module, inplace: bool = False) -> nn.Module:
    """``model`` without the blocks that were inserted: its forward, classes and state dict as before surgery.

    Weights that were trained meanwhile stay as they are now. A gate's factor that was folded into a layer is taken
    out again, which is exact: weights that were not trained are the original's, bit for bit. A model without inserted
    blocks comes back unchanged. In the history that it carries along, both operations are told.

    Args:
        model: from :func:`sesurgeon.apply_plan`, :func:`sesurgeon.add_se` or :func:`sesurgeon.load`.
        inplace: change ``model`` itself; by default a deep copy is changed.

    Raises:
        UsageError: a module with blocks got another class since (``torch.nn.utils.parametrize`` does that), or a layer
            that took a gate's factor is gone; nothing was changed.
    """
    check_uncovered(model)
    blocks = len(blocks_of(model))
    factors = takers(model)
    target = model if inplace else copy.deepcopy(model)
    multiply(target, {name: 1 / factor for name, factor in factors.items()})
    take_out(target)
    if blocks:
        remember(target, "remove-se", blocks=blocks)
    return target
