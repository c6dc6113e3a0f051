"""Taking the blocks out again."""

from __future__ import annotations

from torch import nn

from sesurgeon.models import Provenance, Source, add_record, copy_of, detach_provenance, provenance_of
from sesurgeon.models.copies import AnyModule
from sesurgeon.surgery.apply import plan_of
from sesurgeon.surgery.bare import check_uncovered, take_out
from sesurgeon.surgery.folding.gate_scale import folded_factors
from sesurgeon.surgery.folding.scale import Scale, multiply
from sesurgeon.surgery.rewrite import blocks_of


def remove_se(model: AnyModule, *, inplace: bool = False) -> AnyModule:
    """``model`` without the blocks that were inserted: its forward, classes and state dict as before surgery.

    Weights that were trained meanwhile stay as they are now. A gate's factor that was folded into a layer is removed
    again, exactly: weights that were not trained are those of the original, bit for bit. A model without inserted
    blocks comes back unchanged. If it had a history before surgery, the removal is recorded there.

    Args:
        model: from :func:`sesurgeon.apply_plan`, :func:`sesurgeon.add_se` or :func:`sesurgeon.load`.
        inplace: change ``model`` itself; by default a deep copy is changed.

    Raises:
        UsageError: a module with blocks got another class since (``torch.nn.utils.parametrize`` does that) or another
            forward (as accelerate's wrapper), or a layer that took a gate's factor is gone; nothing was changed.
    """
    check_uncovered(model)
    factors = folded_factors(model)
    target = model if inplace else copy_of(model)
    multiply(target, {name: Scale.uniform(1 / factor) for name, factor in factors.items()})
    planned = [module for module in target.modules() if plan_of(module) is not None]
    blocks = [len(blocks_of(module)) for module in planned]
    take_out(target)
    for module, number in zip(planned, blocks, strict=True):
        _note_removal(module, number)
    return target


def _note_removal(model: nn.Module, blocks: int) -> None:
    """Record the removal in the history; a network that had none before surgery has none again."""
    provenance = provenance_of(model)
    before_surgery = Provenance(Source("module"), history=provenance.history[:1])
    if provenance == before_surgery and all(record.get("command") == "add-se" for record in provenance.history):
        detach_provenance(model)
    elif blocks:
        add_record(model, "remove-se", blocks=blocks)
