"""From a network to a plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from sesurgeon.blocks import BlockConfig
from sesurgeon.blocks.config import BlockName, Init
from sesurgeon.errors import NoSiteError, UsageError
from sesurgeon.graph import LeftAlone, Site, Survey, survey
from sesurgeon.placement.arguments import describe_arguments
from sesurgeon.placement.attributes import before, inserted
from sesurgeon.placement.filters import Filters
from sesurgeon.placement.fingerprint import fingerprint
from sesurgeon.placement.plan import Entry, Plan
from sesurgeon.placement.policies import POLICIES


def make_plan(
    model: nn.Module,
    policy: str = "standard",
    block: BlockName = "se",
    rd_ratio: float = 1 / 16,
    rd_channels: int | None = None,
    rd_divisor: int = 8,
    init: Init = "identity",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    stages: Sequence[int] | None = None,
    min_channels: int = 1,
    example_inputs: Any = None,
) -> Plan:
    """Choose the sites of ``model`` that get a block, and the blocks. The model stays as it is.

    Args:
        model: the network.
        policy: name of the policy; "standard" puts blocks where the paper does.
        block: kind of block.
        rd_ratio, rd_channels, rd_divisor: width of the squeezed layer, as in timm: a share of the site's channels
            rounded to a multiple of ``rd_divisor``, or ``rd_channels`` itself.
        init: "identity" leaves the outputs as they are to the last bit; "random" is the paper's plain block.
        include, exclude: globs on site ids.
        stages: the paper's stages (2 to 5 are the strides 4 to 32).
        min_channels: the fewest channels of a site.
        example_inputs: a tensor, or a tuple of the positional arguments of forward; made from the model by default.

    Raises:
        UsageError: an unknown policy or block, or a setting out of its range; or blocks were inserted already.
        NoSiteError: nothing is selected.
        UntraceableError: the model has no convolution, or does not run on the inputs.
    """
    config = BlockConfig(block, rd_ratio, rd_channels, rd_divisor, init)
    filters = Filters(tuple(include), tuple(exclude), None if stages is None else tuple(stages), min_channels)
    check_policy(policy)
    return plan_from_survey(survey(model, example_inputs), policy, config, filters)


def check_policy(policy: str) -> None:
    """Raise a UsageError that lists the known policies unless ``policy`` is one."""
    if policy not in POLICIES:
        raise UsageError(f"There is no policy '{policy}'.", hint=f"Known policies: {', '.join(POLICIES)}.")


def plan_from_survey(found: Survey, policy: str, config: BlockConfig, filters: Filters) -> Plan:
    """As :func:`make_plan`, for a network that was surveyed already."""
    if any(inserted(module) for module in found.model.modules()):
        raise UsageError("The model has inserted blocks already; take them out first (sesurgeon.remove_se).")
    candidates = POLICIES[policy](found.sites)
    gated = [site for site in candidates if site.attention is not None]
    left_alone = [LeftAlone(site.owner, f"has attention already: {site.attention}") for site in gated]
    free = [site for site in candidates if site.attention is None]
    if not free:
        raise NoSiteError(
            f"{type(found.model).__name__} has no site for policy '{policy}'" + _why_none(left_alone, found.left_alone),
            hint="`sesurgeon inspect` lists what was found.",
        )
    unused = [f"The pattern '{glob}' matches no site." for glob in filters.unused(free)]
    return Plan(
        fingerprint(found.model),
        policy,
        [describe_arguments(argument) for argument in found.inputs],
        tuple(_entries(found.model, filters.keep(free), config)),
        (*left_alone, *found.left_alone),
        tuple(unused),
    )


def _why_none(gated: Sequence[LeftAlone], failed: Sequence[LeftAlone]) -> str:
    if gated:
        return f": all {len(gated)} have attention already, as {gated[0].reason.split(': ')[-1]}."
    if failed:
        return f": {failed[0].path or 'the model itself'}: {failed[0].reason}."
    return ": it has no residual branch, no multi-branch module and no convolution with norm or activation."


def _entries(model: nn.Module, sites: Sequence[Site], config: BlockConfig) -> list[Entry]:
    taken: set[tuple[str, str]] = set()
    entries = []
    for site in sites:
        attribute = _free_attribute(model.get_submodule(site.owner), site.owner, taken)
        taken.add((site.owner, attribute))
        entries.append(Entry(site.id, attribute, site.channels, config))
    return entries


def _free_attribute(owner: nn.Module, path: str, taken: set[tuple[str, str]]) -> str:
    """``se`` as in timm, whose blocks keep a None under that name for it; ``se2``, ``se3``… where it is in use."""
    number = 1
    while True:
        attribute = "se" if number == 1 else f"se{number}"
        if (path, attribute) not in taken and before(owner, attribute) is not None:
            return attribute
        number += 1
