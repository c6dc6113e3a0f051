"""What a plan costs: each block, and the network without and with all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from sesurgeon.graph import Survey
from sesurgeon.placement.costs import Cost, block_cost, images_in, model_cost
from sesurgeon.placement.plan import Plan


@dataclass(frozen=True)
class Price:
    """What a plan adds to the cost of its network.

    Attributes:
        before: of the network as it is.
        blocks: of each block, by the id of its site.
    """

    before: Cost
    blocks: Mapping[str, Cost]

    @property
    def after(self) -> Cost:
        """The cost of the network with all its blocks."""
        return sum(self.blocks.values(), self.before)


def price_of(plan: Plan, model: nn.Module, found: Survey) -> Price:
    """The price of ``plan`` in ``model``, of which ``found`` is the survey."""
    return Price(model_cost(model, found.inputs), plan_costs(plan, found))


def plan_costs(plan: Plan, found: Survey) -> dict[str, Cost]:
    """What each block of ``plan`` costs in the network that was surveyed, by the id of its site."""
    images = images_in(found.inputs)
    return {entry.site: block_cost(entry.config, found.site(entry.site), images) for entry in plan.entries}
