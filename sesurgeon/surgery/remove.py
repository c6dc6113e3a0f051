"""Taking the blocks out again."""

from __future__ import annotations

import copy

from torch import nn

from sesurgeon.surgery.apply import forget_plan
from sesurgeon.surgery.rewrite import is_rewritten, restore


def remove_se(model: nn.Module, inplace: bool = False) -> nn.Module:
    """``model`` without the blocks that were inserted: its forward, classes and state dict as before surgery.

    Weights that were trained meanwhile stay as they are now. A model without inserted blocks comes back unchanged.

    Args:
        model: from :func:`sesurgeon.apply_plan`, :func:`sesurgeon.add_se` or :func:`sesurgeon.load`.
        inplace: change ``model`` itself; by default a deep copy is changed.
    """
    target = model if inplace else copy.deepcopy(model)
    for module in list(target.modules()):
        while is_rewritten(module):
            restore(module)
    forget_plan(target)
    return target
