"""A plan and what it costs, as ``plan`` and ``add-se`` show it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table

from sesurgeon.cli.rendering import block_cell, cost_cells, site_cells, site_table

if TYPE_CHECKING:
    from sesurgeon.graph import Survey
    from sesurgeon.placement import Cost, Plan


def plan_table(plan: Plan, found: Survey, costs: Mapping[str, Cost]) -> Table:
    """A row for each block."""
    table = site_table("block")
    for entry in plan.entries:
        site = found.site(entry.site)
        what = block_cell(entry.config, site.channels)
        named = what if entry.attribute == "se" else f"{entry.attribute}: {what}"
        table.add_row(*site_cells(site), named, *cost_cells(costs[entry.site]))
    return table


def blocks_data(plan: Plan, found: Survey, costs: Mapping[str, Cost]) -> list[dict[str, Any]]:
    """The same for a program."""
    blocks = []
    for entry in plan.entries:
        site = found.site(entry.site)
        blocks.append(
            {
                "site": site.id,
                "path": f"{site.owner}.{entry.attribute}".lstrip("."),
                "stage": site.stage,
                "channels": site.channels,
                "spatial": site.spatial,
                "rd_channels": entry.config.squeezed(site.channels),
                "settings": entry.config.to_dict(),
                **costs[entry.site].to_dict(),
            }
        )
    return blocks
