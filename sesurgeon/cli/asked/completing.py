"""Shell completion of the names that an option accepts."""

from __future__ import annotations

from typing import Any


def one_of(*names: str, metavar: str | None = None) -> dict[str, Any]:
    """Arguments of ``typer.Option``: shells complete ``names``; the help shows ``metavar``, by default the names."""

    def among(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return {"metavar": metavar or "|".join(names), "autocompletion": among}
