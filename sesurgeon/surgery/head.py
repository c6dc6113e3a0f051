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
    """Note in the provenance which layer gives the ``outputs`` scores, where another would be taken for it.

    Checkpoints are rebuilt and adapters applied without running the network, and could not tell. The plan follows:
    the architecture that it is made for leaves out the head. Of a network without a classifier nothing is noted.
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
    """Put down which layer the head is; what the source built is told by that head then, too."""
    provenance = provenance_of(model)
    built = provenance.built
    as_built = built is not None and structure_of(bare_view(model)).body == built.body
    attach_provenance(model, replace(provenance, head=head))
    if as_built:
        attach_provenance(model, replace(provenance, head=head, built=structure_of(bare_view(model))))
