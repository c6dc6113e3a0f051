"""Tables of sites, on terminals of every width."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from sesurgeon.cli.shown.rendering import site_table

ID = "layer4.1:residual"
CELLS = ("5", "512x56x56", "se 512→32", "33,312", "34,816", "25,088", "26,099")


def printed(site: str, width: int) -> str:
    table = site_table("block")
    table.add_row(site, *CELLS)
    file = io.StringIO()
    Console(file=file, width=width).print(table)
    return file.getvalue()


def test_a_wide_terminal_gets_all_columns() -> None:
    text = printed(ID, 100)
    assert all(cell in text for cell in (ID, *CELLS))


@pytest.mark.parametrize("width", range(70, 101))
def test_no_word_is_broken_as_long_as_the_id_has_room(width: int) -> None:
    text = printed(ID, width)
    assert all(word in text for word in " ".join((ID, *CELLS[:5])).split())
    assert max(map(len, text.splitlines())) <= width
    assert ("25,088" in text) == ("26,099" in text) == ("pooling" in text)


def test_an_id_wider_than_the_terminal_is_whole_on_several_lines() -> None:
    first = (line.split(" ")[1] for line in printed("x" * 90, 80).splitlines() if line.startswith(" x"))
    assert "".join(first) == "x" * 90
