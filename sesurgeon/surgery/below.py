"""The network below the blocks: its plan, its survey, and what it gives on the plan's inputs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from sesurgeon.blocks import build_block
from sesurgeon.errors import UsageError
from sesurgeon.graph import Survey
from sesurgeon.graph.paths import join
from sesurgeon.models import fresh, isolated
from sesurgeon.models.forwards import runs_class_forward
from sesurgeon.placement import Entry, Plan, architecture_of, survey_for
from sesurgeon.surgery.apply import plan_of
from sesurgeon.surgery.bare import bare_view
from sesurgeon.surgery.rewrite import blocks_of


def own_plan(model: nn.Module, what: str) -> Plan | None:
    """The plan of ``model``; None without blocks.

    Raises:
        UsageError: only a network inside it was augmented, so that it cannot be ``what`` ("folded"); or blocks of its
            plan are gone.
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


def check_blocks(model: nn.Module, plan: Plan | None, what: str) -> None:
    """Raise a UsageError where blocks are not as ``plan`` makes them: who reads the file would get others."""
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
    """The entries by the paths of their blocks, told by the ids of their sites alone."""
    entries = () if plan is None else plan.entries
    return {join(entry.site.rpartition(":")[0].removeprefix("."), entry.attribute): entry for entry in entries}


def is_as_made(block: nn.Module, entry: Entry) -> bool:
    """Whether ``block`` is as surgery makes one of ``entry``, and nobody looks into it, or changes what it gives."""
    watched = any(part._forward_hooks or part._forward_pre_hooks for part in block.modules())
    return not watched and _change(block, entry) is None


def _change(block: nn.Module, entry: Entry) -> str | None:
    """How ``block`` is not as surgery makes one of ``entry``, whatever its weights; None where it is."""
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
    """Its class; those of other numbers of dimensions, and batch norms across processes, count as one."""
    return next((kind for kind in (_ConvNd, _BatchNorm) if isinstance(part, kind)), type(part))


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


def renewed(plan: Plan, model: nn.Module, bare: nn.Module) -> Plan:
    """``plan`` for the layers of ``model``, ``bare`` without its blocks, which may be others than when they went in.

    Whether there is still a place for each block is seen by running it, but not where other processes train along: its
    layers (SyncBatchNorm) would wait for those of processes that do not save.

    Raises:
        UsageError: places of blocks are not there any more.
        UntraceableError: it does not run on the plan's inputs any more.
    """
    architecture = architecture_of(bare)
    changed = plan.architecture is not None and plan.architecture.differences(architecture)
    if changed and not (dist.is_available() and dist.is_initialized()):
        survey_below(model, plan)
    return replace(plan, architecture=architecture)


def path_of(entry: Entry, found: Survey) -> str:
    """Path of the block of ``entry``."""
    return join(found.site(entry.site).owner, entry.attribute)


def outputs_of(model: nn.Module, found: Survey, training: bool) -> Any:
    """What ``model`` gives for the inputs of the survey, in this mode, under a fixed random state."""
    with isolated(model, training=training):
        return model(*fresh(found.inputs_in(training)))
