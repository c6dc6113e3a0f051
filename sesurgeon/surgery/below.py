"""The network below the blocks: its plan, its survey, and what it gives on the plan's inputs."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from sesurgeon.blocks import build_block
from sesurgeon.errors import UsageError
from sesurgeon.graph import Survey
from sesurgeon.graph.paths import join
from sesurgeon.models import fresh, isolated
from sesurgeon.placement import Entry, Plan, survey_for
from sesurgeon.surgery.apply import plan_of
from sesurgeon.surgery.bare import bare_view
from sesurgeon.surgery.rewrite import blocks_of


def own_plan(model: nn.Module, what: str) -> Plan | None:
    """The plan of ``model``; None without blocks.

    Raises:
        UsageError: only a network inside it was augmented, so that it cannot be ``what`` ("folded").
    """
    plan, blocks = plan_of(model), blocks_of(model)
    if plan is None and blocks:
        raise UsageError(
            f"This {type(model).__name__} cannot be {what}: it has inserted blocks ({next(iter(blocks))}…) but no "
            "plan of its own, as a network around one that was augmented.",
            hint="Call it for the augmented network inside it.",
        )
    return plan


def check_blocks(model: nn.Module, plan: Plan | None, what: str) -> None:
    """Raise a UsageError where the blocks have other tensors than those that ``plan`` makes: who reads them fails."""
    made = Counter(_names(_made(entry)) for entry in (() if plan is None else plan.entries))
    for path, block in blocks_of(model).items():
        if not made[names := _names(block)]:
            raise UsageError(
                f"This {type(model).__name__} cannot be {what}: its block {path} has other tensors than when it was "
                f"inserted ({', '.join(sorted(names))}).",
                hint="Undo what was changed, as by torch.nn.utils.parametrize.remove_parametrizations.",
            )
        made[names] -= 1


def is_as_made(block: nn.Module, entry: Entry) -> bool:
    """Whether ``block`` has the tensors of a block of ``entry``, and nobody looks into it, or changes what it gives."""
    watched = any(part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part) for part in block.modules())
    return not watched and _names(block) == _names(_made(entry))


def _made(entry: Entry) -> nn.Module:
    with torch.device("meta"):
        return build_block(entry.config, entry.channels)


def _names(block: nn.Module) -> frozenset[str]:
    return frozenset(block.state_dict())


def survey_below(model: nn.Module, plan: Plan) -> Survey:
    """The survey of ``model`` below its blocks, whose layers may be others than when they went in.

    Raises:
        UsageError: places of blocks are not there any more.
    """
    found = survey_for(replace(plan, architecture=None), bare_view(model))
    known = {site.id for site in found.sites}
    missing = [site for site in plan.sites if site not in known]
    if missing:
        raise UsageError(
            f"This {type(model).__name__} was changed since its blocks were inserted: there is no place "
            f"{', '.join(missing)} any more.",
            hint="Undo what was changed.",
        )
    return found


def path_of(entry: Entry, found: Survey) -> str:
    """Path of the block of ``entry``."""
    return join(found.site(entry.site).owner, entry.attribute)


def outputs_of(model: nn.Module, found: Survey, training: bool) -> Any:
    """What ``model`` gives for the inputs of the survey, in this mode, under a fixed random state."""
    with isolated(model, training=training):
        return model(*fresh(found.inputs_in(training)))
