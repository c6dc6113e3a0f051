"""Pieces of Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from sesurgeon.words import spaces_shown


def table(header: Sequence[str], lines: Iterable[Sequence[str]], text: int = 1) -> list[str]:
    """A table whose first columns are ``text``, the others numbers."""
    rule = [*["---"] * text, *["---:"] * (len(header) - text)]
    return [f"| {' | '.join(cells)} |" for cells in (header, rule, *lines)]


def per_cent(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} %"


def number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def escaped(text: str) -> str:
    """``text`` as Markdown that shows it as it is, also in the cell of a table."""
    return re.sub(r"([\\`*_\[\]<>|~$])", r"\\\1", spaces_shown(text))
