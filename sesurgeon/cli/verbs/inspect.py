"""``sesurgeon inspect``: what a network is, and where blocks could go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from sesurgeon.cli.asked.loading import load_model
from sesurgeon.cli.asked.options import Model, Reading, Talking
from sesurgeon.cli.asked.selecting import InputShape, Selection, parse_inputs
from sesurgeon.cli.asked.spread import spread
from sesurgeon.cli.asked.timing import Latency
from sesurgeon.cli.shown.console import reporting
from sesurgeon.cli.shown.inspecting import Findings, findings_body, findings_data
from sesurgeon.cli.shown.timing import timed

if TYPE_CHECKING:
    from sesurgeon.export import LatencyRatio


@spread
def inspect(
    model: Model,
    *,
    selection: Selection,
    all_sites: Annotated[bool, typer.Option("--all", help="List every site, not only those of the policy.")] = False,
    latency: Latency = False,
    input_shape: InputShape = None,
    reading: Reading,
    talking: Talking,
) -> None:
    """Show what MODEL is, where blocks could go, what each would cost, and what is not possible and why."""
    with reporting(talking) as out:
        with out.working(f"Looking at {model}"):
            from sesurgeon.graph import survey
            from sesurgeon.placement import Price, block_cost, choose, images_in, model_cost, plan_from_survey, settle
            from sesurgeon.surgery import apply_plan, blocks_of

            policies, config, filters = settle(selection.choices())
            loaded = load_model(model, reading)
            found = survey(loaded, parse_inputs(input_shape, loaded))
            reached, passed_over = choose(found.sites, policies)
            seen = {site.id: site for site in reached}
            chosen = filters.keep([site for site in reached if site.attention is None], reached)
            images = images_in(found.inputs)
            costs = {site.id: block_cost(config, site, images) for site in found.sites}
            cost = model_cost(loaded, found.inputs)
            can_add = chosen and not blocks_of(loaded)
            price = Price(cost, {site.id: costs[site.id] for site in chosen}) if can_add else None
        for warning in filters.unused(reached):
            out.note(f"Warning: {warning}")
        ratios: Sequence[LatencyRatio] = []
        if latency and price is not None:
            planned = plan_from_survey(found, policies, config, filters)
            ratios = timed(out, loaded, apply_plan(loaded, planned), found.inputs)
        findings = Findings(
            name=model,
            model=loaded,
            survey=found,
            cost=cost,
            policy=policies,
            sites=[seen.get(site.id, site) for site in found.sites],
            reached=frozenset(seen),
            chosen=frozenset(site.id for site in chosen),
            costs=costs,
            price=price,
            passed_over=(*passed_over, *found.left_alone),
            latency=ratios,
        )
        out.result(findings_body(findings, all_sites=all_sites), findings_data(findings))
