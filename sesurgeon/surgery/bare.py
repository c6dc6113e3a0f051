"""Taking blocks out of a network's forward, and nothing else."""

from __future__ import annotations

from torch import nn

from sesurgeon.errors import UsageError
from sesurgeon.models import check_is_network
from sesurgeon.models.copies import view_of
from sesurgeon.surgery.apply import forget_plan
from sesurgeon.surgery.rewrite import is_covered, is_rewritten, restore


def take_out(model: nn.Module) -> nn.Module:
    """Take the blocks out of ``model`` in place: its forward, classes and state-dict keys are as before surgery.

    Weights stay as they are, with the factors folded into them, which :func:`sesurgeon.remove_se` removes too.

    Raises:
        UsageError: a module with blocks got another class or forward since; nothing was changed.
    """
    check_uncovered(model)
    for module in list(model.modules()):
        if is_rewritten(module):
            restore(module)
        forget_plan(module)
    return model


def check_uncovered(model: nn.Module) -> None:
    """Raise a UsageError where :func:`take_out` would lose a class or forward that was put on top of ours."""
    check_is_network(model)
    covered = [path or "the model itself" for path, module in model.named_modules() if is_covered(module)]
    if covered:
        raise UsageError(
            f"The blocks cannot be taken out: something gave {', '.join(covered)} another class or forward "
            "after they were inserted.",
            hint="Undo that first. After torch.nn.utils.parametrize (weight_norm, spectral_norm and the like): "
            "torch.nn.utils.parametrize.remove_parametrizations. After accelerate: accelerator.unwrap_model(model, "
            "keep_fp32_wrapper=False). After setting a forward on a module: del module.forward.",
        )


def bare_view(model: nn.Module) -> nn.Module:
    """The network without blocks, as another module on the very same parameters and buffers."""
    return take_out(view_of(model))
