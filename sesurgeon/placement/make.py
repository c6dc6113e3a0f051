"""From a network to a plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from sesurgeon.blocks import BlockConfig
from sesurgeon.errors import NoSiteError
from sesurgeon.graph import LeftAlone, Site, Survey, survey
from sesurgeon.placement.checking import check_not_augmented, completed, with_attributes
from sesurgeon.placement.choices import Choices, settle
from sesurgeon.placement.filters import Filters
from sesurgeon.placement.inputs import check_kept_inputs
from sesurgeon.placement.plan import Entry, Plan
from sesurgeon.placement.policies import POLICIES, passed_over

if TYPE_CHECKING:
    from typing_extensions import Unpack


def make_plan(model: nn.Module, example_inputs: Any = None, **choices: Unpack[Choices]) -> Plan:
    """Choose the sites of ``model`` that get a block, and the blocks. The model stays as it is.

    Args:
        model: the network.
        example_inputs: a tensor, or a tuple of the positional arguments of forward; made from the model by default.
        choices: where blocks go and what they are: see :class:`sesurgeon.placement.Choices`. By default, "se" at the
            sites of the policy "standard".

    Raises:
        UsageError: an unknown choice, policy or block, or a setting out of its range; or blocks were inserted already.
        NoSiteError: nothing is selected.
        UntraceableError: the model has no convolution, or does not run on the inputs, or on what a plan keeps of them.
    """
    policies, config, filters = settle(choices)
    return plan_from_survey(survey_to_plan(model, policies, example_inputs), policies, config, filters)


def survey_to_plan(model: nn.Module, policies: Sequence[str], example_inputs: Any = None) -> Survey:
    """The survey of ``model`` for a plan by these policies.

    Only the graphs of modules these policies would change are compared with their modules.
    """
    return survey(model, example_inputs, wanted=lambda sites: _free(choose(sites, policies)[0]))


def plan_from_survey(found: Survey, policies: Sequence[str], config: BlockConfig, filters: Filters) -> Plan:
    """As :func:`make_plan`, for a network that was surveyed already.

    Where blocks of several policies are in one module, that of the first policy is called ``se``.
    """
    check_not_augmented(found.model)
    chosen, left_alone = choose(found.sites, policies)
    gated = [left_for_attention(site) for site in chosen if site.attention is not None]
    free = _free(chosen)
    if not free:
        raise NoSiteError(
            f"{type(found.model).__name__} has no site for policy '{' '.join(policies)}'"
            + _why_none(gated, left_alone, found.left_alone, found.sites),
            hint="`sesurgeon inspect --all` lists what was found.",
        )
    unused = filters.unused(chosen)
    unused += [f"Policy '{name}' has no site here." for name in policies if not POLICIES[name](found.sites)]
    kept = with_attributes((Entry(site.id, config=config) for site in filters.keep(free, chosen)), found)
    plan = Plan(
        architecture=None,
        policy=tuple(policies),
        inputs=None,
        entries=tuple(kept),
        left_alone=(*gated, *left_alone, *found.left_alone),
        warnings=tuple(unused),
    )
    plan = completed(plan, found)
    check_kept_inputs(plan, found)
    return plan


def choose(sites: Sequence[Site], policies: Sequence[str]) -> tuple[list[Site], list[LeftAlone]]:
    """The sites that all policies choose, in their order, no tensor twice; and the places that they pass over."""
    chosen: dict[tuple[object, ...], Site] = {}
    left_alone: list[LeftAlone] = []
    for policy in policies:
        selected = POLICIES[policy](sites)
        left_alone += passed_over(policy, sites, selected)
        for site in selected:
            scales_a_part = site.kind in ("fork", "shortcut")  # the tensor's other users read it unscaled
            chosen.setdefault((site.tensor, site.id) if scales_a_part else (site.tensor,), site)
    return list(chosen.values()), left_alone


def left_for_attention(site: Site) -> LeftAlone:
    """Why ``site``, which has attention, gets no block."""
    return LeftAlone(site.owner, f"has attention already: {site.attention or 'the model itself'}")


def _free(sites: Sequence[Site]) -> list[Site]:
    return [site for site in sites if site.attention is None]


def _why_none(
    gated: Sequence[LeftAlone], passed_over: Sequence[LeftAlone], failed: Sequence[LeftAlone], sites: Sequence[Site]
) -> str:
    if gated:
        return f": all {len(gated)} have attention already, as {gated[0].reason.split(': ')[-1]}."
    if passed_over:
        return f": {passed_over[0].path or 'the model itself'}: {passed_over[0].reason.split(': ')[-1]}."
    if sites:
        kinds = ", ".join(sorted({site.kind for site in sites}))
        return f", which has others only ({kinds})."
    if failed:
        return f": {failed[0].path or 'the model itself'}: {failed[0].reason}."
    return ": it has no residual branch, no multi-branch module and no convolution with norm or activation."
