"""Where should blocks go? Policies, filters, costs, and the plan."""

from sesurgeon.placement.architecture import Architecture, architecture_of
from sesurgeon.placement.checking import check_not_augmented, completed, refuse_all, survey_for
from sesurgeon.placement.choices import Choices, check_policies, settle
from sesurgeon.placement.costs import Cost, block_cost, images_in, model_cost
from sesurgeon.placement.document import plan_from_data, plan_to_data
from sesurgeon.placement.filters import Filters
from sesurgeon.placement.inputs import inputs_of
from sesurgeon.placement.make import choose, left_for_attention, make_plan, plan_from_survey, survey_to_plan
from sesurgeon.placement.plan import Entry, Plan, by_owner
from sesurgeon.placement.planfile import plan_to_yaml, read_in_part, read_plan, write_plan
from sesurgeon.placement.policies import POLICIES
from sesurgeon.placement.price import Price, plan_costs, price_of

__all__ = [
    "POLICIES",
    "Architecture",
    "Choices",
    "Cost",
    "Entry",
    "Filters",
    "Plan",
    "Price",
    "architecture_of",
    "block_cost",
    "by_owner",
    "check_not_augmented",
    "check_policies",
    "choose",
    "completed",
    "images_in",
    "inputs_of",
    "left_for_attention",
    "make_plan",
    "model_cost",
    "plan_costs",
    "plan_from_data",
    "plan_from_survey",
    "plan_to_data",
    "plan_to_yaml",
    "price_of",
    "read_in_part",
    "read_plan",
    "refuse_all",
    "settle",
    "survey_for",
    "survey_to_plan",
    "write_plan",
]
