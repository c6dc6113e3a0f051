"""Taking the blocks out again."""

from __future__ import annotations

import copy

from torch import nn

from sesurgeon.errors import UsageError
from sesurgeon.surgery.apply import forget_plan
from sesurgeon.surgery.rewrite import is_covered, is_rewritten, restore


def remove_se(model: nn.Module, inplace: bool = False) -> nn.Module:
    """``model`` without the blocks that were inserted: its forward, classes and state dict as before surgery.

    Weights that were trained meanwhile stay as they are now. A model without inserted blocks comes back unchanged.

    Args:
        model: from :func:`sesurgeon.apply_plan`, :func:`sesurgeon.add_se` or :func:`sesurgeon.load`.
        inplace: change ``model`` itself; by default a deep copy is changed.

    Raises:
        UsageError: a module with blocks got another class since (``torch.nn.utils.parametrize`` does that); nothing
            was changed.
    """
    covered = [path or "the model itself" for path, module in model.named_modules() if is_covered(module)]
    if covered:
        raise UsageError(
            f"The blocks cannot be taken out: something gave {', '.join(covered)} another class after they were "
            "inserted.",
            hint="Undo that first. After torch.nn.utils.parametrize (weight_norm, spectral_norm and the like): "
            "torch.nn.utils.parametrize.remove_parametrizations.",
        )
    target = model if inplace else copy.deepcopy(model)
    for module in list(target.modules()):
        if is_rewritten(module):
            restore(module)
    forget_plan(target)
    return target
