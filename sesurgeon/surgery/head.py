"""A head that is not the last layer of its network."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from sesurgeon.errors import UsageError
from sesurgeon.models import attach_provenance, head_of, provenance_of, structure_of
from sesurgeon.placement import architecture_of
from sesurgeon.surgery.apply import plan_of, remember_plan
from sesurgeon.surgery.bare import bare_view


def note_head(model: nn.Module, outputs: int) -> None:
    """Note in the provenance which layer gives the ``outputs`` class scores, if it is not the one found by default.

    Checkpoints are rebuilt and adapters applied without running the network, and could not find out. The plan's
    architecture, which leaves out the head, is computed anew. A network without a classifier stays as it is.
    """
    try:
        head = head_of(model, outputs)
    except UsageError:
        return
    if head == head_of(model):
        return
    set_head(model, head)
    plan = plan_of(model)
    if plan is not None:
        remember_plan(model, replace(plan, architecture=architecture_of(bare_view(model))))


def set_head(model: nn.Module, head: str | None) -> None:
    """Note which layer is the head.

    If the network is still as its source built it, the recorded structure is recomputed for the new head.
    """
    provenance = provenance_of(model)
    noted, built = replace(provenance, head=head), provenance.built
    if built is not None:
        bare = bare_view(model)
        if structure_of(bare).body == built.body:
            attach_provenance(bare, noted)  # which tells structure_of where the head is
            noted = replace(noted, built=structure_of(bare))
    attach_provenance(model, noted)
