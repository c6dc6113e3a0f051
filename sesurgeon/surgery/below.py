"""The network below the blocks: its survey, its architecture, and what it gives on the plan's inputs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch.distributed as dist
from torch import nn

from sesurgeon.errors import UsageError
from sesurgeon.graph import Survey
from sesurgeon.models import fresh, isolated
from sesurgeon.placement import Plan, architecture_of, survey_for
from sesurgeon.surgery.bare import bare_view


def survey_below(model: nn.Module, plan: Plan) -> Survey:
    """The survey of ``model`` below its blocks, whose layers may have changed since they were inserted.

    Raises:
        UsageError: places of blocks are not there any more.
    """
    found = survey_for(replace(plan, architecture=None), bare_view(model))
    missing = [site for site in plan.sites if site not in found.places]
    if missing:
        raise UsageError(
            f"This {type(model).__name__} was changed since its blocks were inserted: there is no place "
            f"{', '.join(missing)} any more.",
            hint="Undo what was changed.",
        )
    return found


def renewed(plan: Plan, model: nn.Module, bare: nn.Module) -> Plan:
    """``plan`` with the architecture of ``bare``, which is ``model`` without its blocks and may have changed since.

    Whether there is still a place for each block takes a run to find out. Where several processes train together none
    is made: layers such as SyncBatchNorm would wait for the processes that do not save.

    Raises:
        UsageError: places of blocks are not there any more.
        UntraceableError: it does not run on the plan's inputs any more.
    """
    architecture = architecture_of(bare)
    changed = plan.architecture is not None and plan.architecture.differences(architecture)
    if changed and not (dist.is_available() and dist.is_initialized()):
        survey_below(model, plan)
    return replace(plan, architecture=architecture)


def outputs_of(model: nn.Module, found: Survey, training: bool) -> Any:
    """What ``model`` gives for the inputs of the survey, in this mode, under a fixed random state."""
    with isolated(model, training=training):
        return model(*fresh(found.inputs_in(training)))
