"""What a shell completes: the names that an option takes."""

from __future__ import annotations

from typing import Any


def one_of(*names: str, metavar: str | None = None) -> dict[str, Any]:
    """For ``typer.Option``: shells complete ``names``; help shows them, or ``metavar`` where a sentence tells them."""

    def among(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return {"metavar": metavar or "|".join(names), "autocompletion": among}
