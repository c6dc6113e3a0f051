"""What ``inspect`` found in a network, as it looks on a terminal and as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text

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
from sesurgeon.cli.shown.timing import latency_table
from sesurgeon.words import counted

if TYPE_CHECKING:
    from torch import nn

    from sesurgeon.export import LatencyRatio
    from sesurgeon.graph import LeftAlone, Site, Survey
    from sesurgeon.placement import Cost, Price


@dataclass(frozen=True)
class Findings:
    """What was found in a network.

    Attributes:
        name: MODEL, as it was given.
        model, survey, cost: the network, its sites, and its cost.
        policy: names of the policies.
        sites: all sites, as the policies see them: "inner" knows of attention elsewhere in the branch.
        reached: ids of the sites that the policies select, including those that have attention already.
        chosen: ids of the sites that would get a block.
        costs: of a block, by site id.
        price: of the blocks that add-se would insert; None if it would insert none.
        passed_over: modules that get no block, and why, other than those with attention.
        latency: with the chosen blocks and without; empty without ``--latency``.
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
    price: Price | None
    passed_over: tuple[LeftAlone, ...]
    latency: Sequence[LatencyRatio]

    @cached_property
    def inserted(self) -> Mapping[str, nn.Module]:
        """The blocks that are there, by path."""
        from sesurgeon.surgery import blocks_of

        return blocks_of(self.model)

    @cached_property
    def gated(self) -> list[Site]:
        """The sites with attention of the network's own."""
        return [site for site in self.sites if site.attention is not None and site.attention not in self.inserted]

    @cached_property
    def left_alone(self) -> tuple[LeftAlone, ...]:
        """Modules that get no block, and why."""
        from sesurgeon.placement import left_for_attention

        return tuple(dict.fromkeys((*map(left_for_attention, self.gated), *self.passed_over)))


def findings_body(findings: Findings, *, all_sites: bool) -> Group:
    """The network, its sites (or only those that the policies select), and what blocks at the chosen ones cost."""
    found, cost, inserted = findings.survey, findings.cost, findings.inserted
    body: list[RenderableType] = [
        Text(f"{type(findings.model).__name__} from {findings.name}", style="bold"),
        Text(f"{count(cost.parameters)} parameters, {count(cost.macs)} MACs per image of {_shapes(found)}"),
        Text(f"Sites: {kinds(findings.sites)}. Inserted blocks: {len(inserted)}."),
    ]
    reached = [site for site in findings.sites if site.id in findings.reached and site not in findings.gated]
    shown = findings.sites if all_sites else reached
    table = site_table("note")
    for site in shown:
        note = _note(site, findings, inserted, all_sites=all_sites)
        price = cost_cells(findings.costs[site.id]) if site.attention is None else ()
        table.add_row(*site_cells(site), note, *price)
    if shown:
        body.append(table)
    if inserted:
        body.append(Text("add-se wants a network without blocks: remove-se removes these, and benchmark times them."))
    if findings.price is not None:
        policy, blocks = " and ".join(findings.policy), counted(len(findings.price.blocks), "block")
        body.append(Text(f"What add-se would do (policy {policy}, {blocks}):"))
        body += price_lines(findings.price)
    if findings.latency:
        body.append(latency_table(findings.latency))
    if len(shown) < len(findings.sites):
        more = counted(len(findings.sites) - len(shown), "more site")
        body.append(Text(f"Not shown: {more}; --all lists all."))
    if found.train_failure is not None:
        body.append(Text(f"Train mode: {found.train_failure}", style="yellow"))
    return Group(*body, *left_alone_lines(findings.left_alone))


def _note(site: Site, findings: Findings, inserted: Mapping[str, nn.Module], *, all_sites: bool) -> str:
    if site.attention is not None:
        return "inserted" if site.attention in inserted else "gated"
    notes = ["chosen"] if all_sites and site.id in findings.chosen else []
    notes += ["filtered"] if site.id in findings.reached - findings.chosen else []
    notes += ["no skip"] if site.kind == "residual" and not site.has_skip else []
    notes += [f"{site.calls} times"] if site.calls > 1 else []
    return ", ".join(notes)


def _shapes(found: Survey) -> str:
    """The shapes of one image for each argument: ``3x224x224 and 3x224x224``; for a list of images, their sizes."""
    shapes = []
    for argument in found.inputs:
        images = [(1, *_shape(image)) for image in argument] if isinstance(argument, list) else [_shape(argument)]
        shapes.append(" or ".join(dict.fromkeys(map(times, images))))
    return " and ".join(filter(None, shapes))


def _shape(argument: Any) -> list[Any]:
    """The shape of a tensor, or of each tensor in a list; empty for anything else."""
    return [*map(_shape, argument)] if isinstance(argument, list) else list(getattr(argument, "shape", ()))


def findings_data(findings: Findings) -> dict[str, Any]:
    """The same for a program, with all sites."""
    from sesurgeon.models import provenance_of

    found, provenance = findings.survey, provenance_of(findings.model)
    return {
        "model": findings.name,
        "class": type(findings.model).__name__,
        "source": str(provenance.source),
        "classes": provenance.classes,
        "input_shapes": [_shape(argument) for argument in found.inputs],
        **findings.cost.to_dict(),
        "after": None if findings.price is None else findings.price.after.to_dict(),
        "inserted_blocks": list(findings.inserted),
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
