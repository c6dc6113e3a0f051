"""Figures of matplotlib, as all pictures use them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sesurgeon.files import atomic_write

BLUE, RED, GREY = "#0b5fa5", "#b3261e", "#8c8c8c"


def new_figure(width: float, height: float) -> Any:
    """An empty figure of that size in inches; it needs no screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: Path) -> None:
    """Write ``figure`` as a PNG, whole or not at all."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120, bbox_inches="tight", format="png")


def without_box(axes: Any) -> None:
    """Hide the sides of the frame that are no axes."""
    axes.spines[["top", "right"]].set_visible(False)
