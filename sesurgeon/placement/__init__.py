"""Where should blocks go? Policies, filters, costs, and the plan."""

from sesurgeon.placement.choices import Choices, check_policies, settle
from sesurgeon.placement.costs import Cost, block_cost, images_in, model_cost
from sesurgeon.placement.filters import Filters
from sesurgeon.placement.make import choose, make_plan, plan_from_survey
from sesurgeon.placement.plan import Entry, Plan, plan_to_yaml
from sesurgeon.placement.policies import POLICIES

__all__ = [
    "POLICIES",
    "Choices",
    "Cost",
    "Entry",
    "Filters",
    "Plan",
    "block_cost",
    "check_policies",
    "choose",
    "images_in",
    "make_plan",
    "model_cost",
    "plan_from_survey",
    "plan_to_yaml",
    "settle",
]
