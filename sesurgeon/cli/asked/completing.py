"""Shell completion for options that may be repeated; of those with one value, typer completes a ``Literal`` itself."""

from __future__ import annotations

from typing import Any


def several_of(*names: str) -> dict[str, Any]:
    """Arguments of ``typer.Option`` by which shells complete ``names``."""

    def among(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return {"metavar": "NAME", "autocompletion": among}
