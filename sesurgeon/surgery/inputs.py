"""Example inputs for a network that may have been operated on."""

from __future__ import annotations

from typing import Any

from torch import nn

from sesurgeon.models import example_inputs, provenance_of
from sesurgeon.placement import inputs_of
from sesurgeon.surgery.apply import plan_of


def known_inputs(model: nn.Module) -> tuple[Any, ...]:
    """Positional arguments of forward: of the size of its images; else those of its plan; else made from the model.

    The plan's are what somebody gave when the blocks went in, or what was found out then.
    """
    plan = plan_of(model)
    given = None if plan is None or provenance_of(model).preprocessing is not None else inputs_of(plan, model)
    return example_inputs(model) if given is None else given
