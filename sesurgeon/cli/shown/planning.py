"""A plan and what it costs, as ``plan`` and ``add-se`` show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.table import Table

from sesurgeon.cli.shown.rendering import (
    block_cell,
    cost_cells,
    left_alone_lines,
    price_lines,
    site_cells,
    site_table,
)
from sesurgeon.cli.shown.timing import latency_table

if TYPE_CHECKING:
    from sesurgeon.export import LatencyRatio
    from sesurgeon.graph import Survey
    from sesurgeon.placement import Cost, Plan, Price


def plan_body(
    plan: Plan, found: Survey, price: Price, ratios: Sequence[LatencyRatio], *, table: bool = True
) -> list[RenderableType]:
    """The blocks (without their table if ``table`` is false), what they cost, and what gets no block."""
    return [
        *([_plan_table(plan, found, price.blocks)] if table else []),
        *price_lines(price),
        *([latency_table(ratios)] if ratios else []),
        *left_alone_lines(plan.left_alone),
    ]


def _plan_table(plan: Plan, found: Survey, costs: Mapping[str, Cost]) -> Table:
    """A row for each block."""
    table = site_table("block")
    for entry in plan.entries:
        site = found.site(entry.site)
        what = block_cell(entry.config, site.channels)
        named = what if entry.attribute == "se" else f"{entry.attribute}: {what}"
        table.add_row(*site_cells(site), named, *cost_cells(costs[entry.site]))
    return table


def plan_data(plan: Plan, found: Survey, price: Price, ratios: Sequence[LatencyRatio]) -> dict[str, Any]:
    """The same as :func:`plan_body`, for a program."""
    return {
        "blocks": _blocks_data(plan, found, price.blocks),
        "before": price.before.to_dict(),
        "after": price.after.to_dict(),
        "latency": ratios,
        "left_alone": plan.left_alone,
    }


def _blocks_data(plan: Plan, found: Survey, costs: Mapping[str, Cost]) -> list[dict[str, Any]]:
    blocks = []
    for entry in plan.entries:
        site = found.site(entry.site)
        blocks.append(
            {
                "site": site.id,
                "path": entry.path,
                "stage": site.stage,
                "channels": site.channels,
                "spatial": site.spatial,
                "rd_channels": entry.config.squeezed(site.channels),
                "settings": entry.config.to_dict(),
                **costs[entry.site].to_dict(),
            }
        )
    return blocks
