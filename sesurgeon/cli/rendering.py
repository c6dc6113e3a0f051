"""How sites, numbers and refusals look on a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from sesurgeon.graph import LeftAlone, Site

_MOST_LINES = 12


def site_table(title: str, *columns: str) -> Table:
    """An empty table with a site's columns (site, stage, tensor) and these after them."""
    table = Table(title=title, title_justify="left")
    table.add_column("site", overflow="fold")
    table.add_column("stage", justify="right")
    table.add_column("tensor", justify="right")
    for column in columns:
        table.add_column(column, justify="right" if column.startswith("+") else "left")
    return table


def stage_of(site: Site) -> str:
    """The paper's stage of ``site``."""
    return str(site.stage)


def times(shape: Sequence[int]) -> str:
    """``64x56x56``: a shape without its batch."""
    return "x".join(map(str, shape[1:]))


def count(number: int) -> str:
    """With thousands separated, exactly."""
    return f"{number:,}"


def left_alone_lines(left_alone: Iterable[LeftAlone]) -> list[Text]:
    """What got no block and why, a line each; reasons that repeat often are counted together."""
    by_reason: dict[str, list[str]] = {}
    for item in left_alone:
        by_reason.setdefault(item.reason.split(": ")[0], []).append(item.path or "the model itself")
    lines = []
    reasons = {item.reason.split(": ")[0]: item.reason for item in left_alone}
    for short, paths in by_reason.items():
        shown = ", ".join(paths[:4]) + (f" and {len(paths) - 4} more" if len(paths) > 4 else "")
        reason = reasons[short] if len(paths) == 1 else short
        lines.append(Text(f"Left alone: {shown}: {reason}.", style="yellow"))
    hidden = len(lines) - _MOST_LINES
    return [*lines[:_MOST_LINES], Text(f"… and {hidden} more reasons; --json lists all.")] if hidden > 0 else lines


def kinds(sites: Iterable[Site]) -> str:
    """``16 residual, 53 conv``."""
    counted = Counter(site.kind for site in sites)
    return ", ".join(f"{number} {kind}" for kind, number in counted.items()) or "none"
