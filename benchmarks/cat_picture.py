"""The README's picture: one photograph under several networks, with the five most likely classes of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

# Okabe and Ito's blue and vermilion: told apart by colour-blind readers, and in grey.
SAME, CHANGED = "#0072B2", "#D55E00"
INK, QUIET, RAIL = "#1f2328", "#59636e", "#e6eaee"

# In pixels, all of them whole and the same in each column: equal panels are equal pixels, which a PNG stores once.
# GitHub shows the picture at half this size.
COLUMN, PHOTOGRAPH, MARGIN, DPI = 560, 430, 10, 200
TOP, BARS, BOTTOM = 108, 256, 8
HEIGHT = TOP + PHOTOGRAPH + BARS + BOTTOM


@dataclass(frozen=True)
class Panel:
    """One column of the picture.

    Attributes:
        title, subtitle: above the photograph.
        shares: (class, probability from 0 to 1), largest first.
        changed: whether the network answers differently than the one before it.
    """

    title: str
    subtitle: str
    shares: Sequence[tuple[str, float]]
    changed: bool


def draw(photograph: Image.Image, panels: Sequence[Panel], path: Path) -> None:
    """Write the panels side by side as a PNG; ``photograph`` is square."""
    width = COLUMN * len(panels) + 2 * MARGIN
    figure = Figure(figsize=(width / DPI, HEIGHT / DPI), dpi=DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    pixels = np.asarray(photograph.resize((PHOTOGRAPH, PHOTOGRAPH), Image.Resampling.LANCZOS))
    for index, panel in enumerate(panels):
        left, centre = MARGIN + index * COLUMN, MARGIN + (index + 0.5) * COLUMN
        colour = CHANGED if panel.changed else SAME
        figure.figimage(pixels, round(centre - PHOTOGRAPH / 2), HEIGHT - TOP - PHOTOGRAPH)
        text = {"ha": "center", "va": "baseline", "transform": None}
        figure.text(centre, HEIGHT - 50, panel.title, fontsize=12, fontweight="bold", color=INK, **text)
        figure.text(centre, HEIGHT - 90, panel.subtitle, fontsize=8.8, color=QUIET, **text)
        if index:
            sign = "≠" if panel.changed else "="
            middle = BOTTOM + BARS / 2
            figure.text(left + 20, middle, sign, fontsize=26, color=colour, ha="center", va="center", transform=None)
        box = (left / width, BOTTOM / HEIGHT, COLUMN / width, BARS / HEIGHT)
        draw_shares(figure.add_axes(box), panel.shares, colour)
    canvas.draw()
    Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").save(path, optimize=True)


def draw_shares(axes: Axes, shares: Sequence[tuple[str, float]], colour: str) -> None:
    """Horizontal bars on rails from 0 to 100 %; the thinnest is two pixels wide, to be seen at all."""
    start, rail = 240, 200  # pixels; class names stand before, probabilities behind
    for row, (name, share) in enumerate(shares):
        axes.barh(row, rail, left=start, height=0.56, color=RAIL)
        axes.barh(row, max(round(share * rail), 2), left=start, height=0.56, color=colour)
        axes.text(start - 12, row, name, ha="right", va="center", fontsize=8.8, color=INK)
        axes.text(COLUMN - 32, row, f"{share:.1%}", ha="right", va="center", fontsize=8.8, color=INK)
    axes.set(xlim=(0, COLUMN), ylim=(len(shares) - 0.4, -0.75))
    axes.set_axis_off()
