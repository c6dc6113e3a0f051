"""How sites, costs, and modules without a block look on a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from sesurgeon.words import in_per_cent, some

if TYPE_CHECKING:
    from sesurgeon.blocks import BlockConfig
    from sesurgeon.graph import LeftAlone, Site
    from sesurgeon.placement import Cost, Price

_MOST_LINES = 12
_MOST_OPERATIONS = 4


def site_table(*columns: str) -> Table:
    """An empty table with the columns of a site, then ``columns``, then those of a cost."""
    table = _SiteTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("site", no_wrap=True)
    table.add_column("stage", justify="right", no_wrap=True)
    table.add_column("tensor", justify="right", no_wrap=True)
    for column in columns:
        table.add_column(column)
    for column in ("+ params", "+ MACs", "pooling\nadds", "scaling\nproducts"):
        widest = max(map(len, column.splitlines()))  # rich would use the widest word
        table.add_column(column, justify="right", no_wrap=True, min_width=widest)
    return table


class _SiteTable(Table):
    """Drops its last two columns on a narrow terminal, to keep the ids whole; their totals are printed below it."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = copy(self)
        if not shown._fits(console, options):
            shown.columns = shown.columns[:-2]
        if not shown._fits(console, options):  # an id may be wider than a terminal
            shown.columns = [replace(shown.columns[0], no_wrap=False, overflow="fold"), *shown.columns[1:]]
        yield from Table.__rich_console__(shown, console, options)

    def _fits(self, console: Console, options: ConsoleOptions) -> bool:
        return self.__rich_measure__(console, options).minimum <= options.max_width


def site_cells(site: Site) -> tuple[str, str, str]:
    """The first cells of a row of :func:`site_table`."""
    return site.id, str(site.stage), times(site.shape)


def cost_cells(cost: Cost) -> tuple[str, ...]:
    """The last cells of a row of :func:`site_table`."""
    return tuple(count(number) for number in (cost.parameters, cost.macs, cost.pooling, cost.scaling))


def block_cell(config: BlockConfig, channels: int) -> str:
    """``se 64→8``, and the settings that are neither default nor visible in the width."""
    width = config.squeezed(channels)
    told = ("block", "rd_ratio", "rd_channels", "rd_divisor")
    others = [f"{name}={value}" for name, value in config.to_dict().items() if name not in told]
    return " ".join([config.block, *([] if width is None else [f"{channels}→{width}"]), *others])


def price_lines(price: Price) -> list[RenderableType]:
    """What blocks add to a network, and which of its operations are not counted."""
    return [_totals_table(price.before, price.after), *_uncounted_lines(price.after)]


def _totals_table(before: Cost, after: Cost) -> Table:
    """Parameters and multiply-adds without and with blocks, and the difference."""
    table = Table("", "before", "after", "", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for label, old, new in (
        ("parameters", before.parameters, after.parameters),
        ("MACs per image", before.macs, after.macs),
    ):
        table.add_row(label, count(old), count(new), f"+{share(new - old, old)}")
    table.add_row("  pooling additions (½ MAC)", count(before.pooling), count(after.pooling), "")
    table.add_row("  scaling products (½ MAC)", count(before.scaling), count(after.scaling), "")
    return table


def _uncounted_lines(cost: Cost) -> list[Text]:
    """A line that names the operations that are not counted; none if all are."""
    names = [*cost.uncounted[:_MOST_OPERATIONS], *(["…"] if len(cost.uncounted) > _MOST_OPERATIONS else [])]
    return [Text(f"Not counted among the MACs: {', '.join(names)}.", style="yellow")] if names else []


def share(part: int, whole: int) -> str:
    """``1.25 %``."""
    return in_per_cent(part / max(whole, 1))


def times(shape: Sequence[int]) -> str:
    """``64x56x56``: a shape without the batch dimension."""
    return "x".join(map(str, shape[1:]))


def count(number: int) -> str:
    """``1,234,567``."""
    return f"{number:,}"


def left_alone_lines(left_alone: Iterable[LeftAlone]) -> list[Text]:
    """A line for each reason why modules got no block, without its details if several modules share it."""
    by_reason: dict[str, list[LeftAlone]] = {}
    for item in left_alone:
        by_reason.setdefault(item.reason.split(": ")[0], []).append(item)
    lines = []
    for short, items in by_reason.items():
        shown = some([item.path or "the model itself" for item in items], 4)
        reason = items[0].reason if len(items) == 1 else short
        lines.append(Text(f"Left alone: {shown}: {reason}.", style="yellow"))
    hidden = len(lines) - _MOST_LINES
    return [*lines[:_MOST_LINES], Text(f"… and {hidden} more reasons; --json lists all.")] if hidden > 0 else lines


def kinds(sites: Iterable[Site]) -> str:
    """``16 residual, 53 conv``."""
    counted = Counter(site.kind for site in sites)
    return ", ".join(f"{number} {kind}" for kind, number in counted.items()) or "none"
