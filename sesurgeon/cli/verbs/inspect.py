"""``sesurgeon inspect``: what a network is, and where a block could go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from sesurgeon.cli.asked.loading import load_model
from sesurgeon.cli.asked.options import Model, Reading, Talking
from sesurgeon.cli.asked.selecting import InputShape, Selection, parse_inputs
from sesurgeon.cli.asked.spread import spread
from sesurgeon.cli.shown.console import reporting
from sesurgeon.cli.shown.rendering import (
    cost_cells,
    count,
    kinds,
    left_alone_lines,
    price_lines,
    site_cells,
    site_table,
    times,
)
from sesurgeon.cli.shown.timing import Latency, latency_table, timed
from sesurgeon.words import counted

if TYPE_CHECKING:
    from torch import nn

    from sesurgeon.export import LatencyRatio
    from sesurgeon.graph import LeftAlone, Site, Survey
    from sesurgeon.placement import Cost


@dataclass(frozen=True)
class _Findings:
    """What was found in a network.

    Attributes:
        name: as it was given.
        model, survey, cost: the network, its sites, and what it costs.
        policy: names of the policies.
        sites: all that were found, as the policies see them: "inner" knows of attention elsewhere in the branch.
        reached: ids of the sites that the policies want; those among them that have attention already get no block.
        chosen: ids of those that would get one.
        costs: what a block would cost, by site id.
        left_alone: modules without a block, and why.
        latency: with the chosen blocks and without; empty where it was not asked for.
    """

    name: str
    model: nn.Module
    survey: Survey
    cost: Cost
    policy: tuple[str, ...]
    sites: Sequence[Site]
    reached: frozenset[str]
    chosen: frozenset[str]
    costs: Mapping[str, Cost]
    left_alone: tuple[LeftAlone, ...]
    latency: Sequence[LatencyRatio]


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
            from sesurgeon.placement import block_cost, choose, images_in, model_cost, plan_from_survey, settle
            from sesurgeon.surgery import apply_plan

            policies, config, filters = settle(selection.choices())
            loaded = load_model(model, reading)
            found = survey(loaded, parse_inputs(input_shape, loaded))
            reached, passed_over = choose(found.sites, policies)
            seen = {site.id: site for site in reached}
            chosen = filters.keep([site for site in reached if site.attention is None], reached)
            images = images_in(found.inputs)
            costs = {site.id: block_cost(config, site, images) for site in found.sites}
            cost = model_cost(loaded, found.inputs)
        for warning in filters.unused(reached):
            out.note(f"Warning: {warning}")
        ratios: Sequence[LatencyRatio] = []
        if latency and chosen:
            planned = plan_from_survey(found, policies, config, filters)
            ratios = timed(out, loaded, apply_plan(loaded, planned), found.inputs)
        findings = _Findings(
            model,
            loaded,
            found,
            cost,
            policies,
            [seen.get(site.id, site) for site in found.sites],
            frozenset(seen),
            frozenset(site.id for site in chosen),
            costs,
            (*passed_over, *found.left_alone),
            ratios,
        )
        out.result(_rendered(findings, all_sites=all_sites), _data(findings))


def _rendered(findings: _Findings, *, all_sites: bool) -> Group:
    from sesurgeon.graph import LeftAlone
    from sesurgeon.placement import Price
    from sesurgeon.surgery import blocks_of

    found, cost, inserted = findings.survey, findings.cost, blocks_of(findings.model)
    body: list[RenderableType] = [
        Text(f"{type(findings.model).__name__} from {findings.name}", style="bold"),
        Text(f"{count(cost.parameters)} parameters, {count(cost.macs)} MACs an image of {_shapes(found)}"),
        Text(f"Sites: {kinds(findings.sites)}. Inserted blocks: {len(inserted)}."),
    ]
    gated = [site for site in findings.sites if site.attention is not None and site.attention not in inserted]
    reached = [site for site in findings.sites if site.id in findings.reached and site not in gated]
    shown = findings.sites if all_sites else reached
    table = site_table("note")
    for site in shown:
        note = _note(site, findings, inserted, all_sites=all_sites)
        price = cost_cells(findings.costs[site.id]) if site.attention is None else ()
        table.add_row(*site_cells(site), note, *price)
    if shown:
        body.append(table)
    if findings.chosen:
        with_chosen = Price(cost, {site_id: findings.costs[site_id] for site_id in findings.chosen})
        policy = " and ".join(findings.policy)
        body += [Text(f"What add-se would do (policy {policy}, {counted(len(findings.chosen), 'block')}):")]
        body += price_lines(with_chosen)
    if findings.latency:
        body.append(latency_table(findings.latency))
    if len(shown) < len(findings.sites):
        more = counted(len(findings.sites) - len(shown), "more site")
        body.append(Text(f"Not shown: {more}; --all lists all."))
    if found.train_failure is not None:
        body.append(Text(f"Train mode: {found.train_failure}", style="yellow"))
    attended = (LeftAlone(site.owner, f"has attention already: {site.attention}") for site in gated)
    return Group(*body, *left_alone_lines(dict.fromkeys((*attended, *findings.left_alone))))


def _note(site: Site, findings: _Findings, inserted: Mapping[str, nn.Module], *, all_sites: bool) -> str:
    if site.attention is not None:
        return "inserted" if site.attention in inserted else "gated"
    notes = ["chosen"] if all_sites and site.id in findings.chosen else []
    notes += ["filtered"] if site.id in findings.reached - findings.chosen else []
    notes += ["no skip"] if site.kind == "residual" and not site.has_skip else []
    notes += [f"{site.calls} times"] if site.calls > 1 else []
    return ", ".join(notes)


def _shapes(found: Survey) -> str:
    """Of one image for each argument: ``3x224x224 and 3x224x224``; of a list of images, their sizes."""
    shapes = []
    for argument in found.inputs:
        images = [(1, *_shape(image)) for image in argument] if isinstance(argument, list) else [_shape(argument)]
        shapes.append(" or ".join(dict.fromkeys(map(times, images))))
    return " and ".join(filter(None, shapes))


def _shape(argument: Any) -> list[Any]:
    """Of a tensor, or of each tensor in a list; empty for anything else."""
    return [*map(_shape, argument)] if isinstance(argument, list) else list(getattr(argument, "shape", ()))


def _data(findings: _Findings) -> dict[str, Any]:
    from sesurgeon.models import provenance_of
    from sesurgeon.surgery import blocks_of

    found, provenance = findings.survey, provenance_of(findings.model)
    return {
        "model": findings.name,
        "class": type(findings.model).__name__,
        "source": str(provenance.source),
        "classes": provenance.classes,
        "input_shapes": [_shape(argument) for argument in found.inputs],
        **findings.cost.to_dict(),
        "inserted_blocks": list(blocks_of(findings.model)),
        "policy": findings.policy,
        "sites": [
            {
                **vars(site),
                "channels": site.channels,
                "spatial": site.spatial,
                "stage": site.stage,
                "chosen": site.id in findings.chosen,
                "cost": findings.costs[site.id].to_dict(),
            }
            for site in findings.sites
        ],
        "latency": findings.latency,
        "left_alone": findings.left_alone,
        "train_failure": found.train_failure,
    }
