"""Are the blocks of a network's plan all there, and still as surgery made them?"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from sesurgeon.blocks import build_block
from sesurgeon.errors import UsageError
from sesurgeon.models.forwards import runs_class_forward
from sesurgeon.paths import join
from sesurgeon.placement import Entry, Plan
from sesurgeon.surgery.apply import plan_of
from sesurgeon.surgery.rewrite import blocks_of


def own_plan(model: nn.Module, what: str) -> Plan | None:
    """The plan of ``model``; None without blocks.

    Args:
        model: the network.
        what: is to be done with it, for messages: "folded".

    Raises:
        UsageError: only a network inside it was augmented; or blocks of its plan are gone.
    """
    plan, blocks = plan_of(model), blocks_of(model)
    if plan is None and blocks:
        raise UsageError(
            f"This {type(model).__name__} cannot be {what}: it has inserted blocks ({next(iter(blocks))}…) but no "
            "plan of its own, as a network around one that was augmented.",
            hint="Call it for the augmented network inside it.",
        )
    gone = [path for path in _planned(plan) if path not in blocks]
    if gone:
        raise _changed(model, what, f"its block {gone[0]} is not there any more")
    return plan


def check_blocks_unchanged(model: nn.Module, plan: Plan | None, what: str) -> None:
    """Raise a UsageError unless all blocks are as ``plan`` makes them: a file would give back others."""
    planned = _planned(plan)
    for path, block in blocks_of(model).items():
        change = "is not in its plan" if path not in planned else _change(block, planned[path])
        if change is not None:
            raise _changed(model, what, f"its block {path} {change}")


def _changed(model: nn.Module, what: str, how: str) -> UsageError:
    return UsageError(
        f"This {type(model).__name__} cannot be {what}: {how}.",
        hint="Undo that (a parametrization by torch.nn.utils.parametrize.remove_parametrizations), or take all blocks "
        "out with sesurgeon.remove_se and insert them anew.",
    )


def _planned(plan: Plan | None) -> dict[str, Entry]:
    """The entries by the paths of their blocks."""
    return {} if plan is None else {entry.path: entry for entry in plan.entries}


def is_as_made(block: nn.Module, entry: Entry) -> bool:
    """Whether ``block`` is as surgery makes one from ``entry``, and no hook sees or changes its tensors."""
    watched = any(part._forward_hooks or part._forward_pre_hooks for part in block.modules())
    return not watched and _change(block, entry) is None


def _change(block: nn.Module, entry: Entry) -> str | None:
    """How ``block`` differs from one that surgery makes from ``entry``, apart from weights; None where it does not."""
    with torch.device("meta"):
        made = build_block(entry.config, entry.channels)
    if set(block.state_dict()) != set(made.state_dict()):
        return f"has other tensors than when it was inserted ({', '.join(sorted(block.state_dict())) or 'none'})"
    kinds, parts = {path: _kind(part) for path, part in made.named_modules()}, dict(block.named_modules())
    for path, part in parts.items():
        if kinds.get(path) is not _kind(part):
            return f"has another layer than when it was inserted ({join(path, type(part).__name__)})"
        if not runs_class_forward(part):
            return "has another forward than when it was inserted"
    return None if len(parts) == len(kinds) else "has fewer layers than when it was inserted"


def _kind(part: nn.Module) -> type[nn.Module]:
    """Its class, with all convolutions as one, whatever their dimensions, and all batch norms."""
    return next((kind for kind in (_ConvNd, _BatchNorm) if isinstance(part, kind)), type(part))
