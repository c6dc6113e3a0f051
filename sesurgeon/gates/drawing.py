"""Pictures of what the gates do, after figure 5 of the SE paper."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from sesurgeon.finetune.keeping.figures import BLUE, GREY, RED, new_figure, save_figure, without_box
from sesurgeon.finetune.keeping.lettering import lettering_for
from sesurgeon.gates.study import GateStudy, evenly_spread

_MOST_PANELS = 48
_COLUMNS = 3
_COLOURS = (BLUE, "#c05a00", "#2f7d32", "#8e3b8c", RED, "#4b5d67", "#8a6d00", "#007c7c")
_ALL = "#000000"


def draw_activations(study: GateStudy, path: Path) -> None:
    """Write a PNG with a panel per gate: the mean factor of each channel, for all images and for each class.

    Of more than 48 gates, 48 are drawn, evenly spread over the depth.

    Raises:
        OutputError: ``path`` cannot be written.
    """
    names = [gate.gate for gate in study.gates]
    shown = [names[index] for index in evenly_spread(len(names), _MOST_PANELS)]
    columns = min(_COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure = new_figure(max(4.2 * columns, 7), 2.3 * rows + 1)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()  # as in the paper
    lettering = lettering_for(dict(enumerate(study.classes)))
    for axes, gate in zip(panels, shown, strict=False):
        _draw_panel(axes, study, gate)
        axes.set_title(gate, fontsize="small", **lettering.style)
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    lines = panels[0].get_lines()[1:]  # behind that at 1; asked for by label, those with names like "_x" are hidden
    labels = [*(lettering[number] for number in range(len(study.classes))), "all images"]
    legend = figure.legend(lines, labels, loc="outside lower center", ncols=min(5, len(labels)), frameon=False)
    for text in legend.get_texts():
        text.set(**lettering.style)
    of_all = "" if len(shown) == len(names) else f", {len(shown)} of {len(names)} gates"
    figure.suptitle(f"mean factor of each channel on {study.images:,} images{of_all}", fontsize="medium")
    save_figure(figure, path)


def draw_spreads(study: GateStudy, path: Path) -> None:
    """Write a PNG with the spread of each gate over images, classes and channels, by depth.

    Raises:
        OutputError: ``path`` cannot be written.
    """
    gates = study.gates
    figure = new_figure(max(7, 0.22 * len(gates) + 4), 4.4)
    axes = figure.subplots()
    places = range(1, len(gates) + 1)
    for values, label, colour in (
        ([gate.image_spread for gate in gates], "over images", _COLOURS[0]),
        ([math.nan if gate.class_spread is None else gate.class_spread for gate in gates], "over classes", _COLOURS[1]),
        ([gate.channel_spread for gate in gates], "over channels", GREY),
    ):
        axes.plot(places, values, "o-", color=colour, label=label)
    axes.set_xticks(places, [gate.gate for gate in gates], rotation=90, fontsize="small", parse_math=False)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("standard deviation of the factor")
    axes.set_title(f"on {study.images:,} images, first gate to last", fontsize="medium")
    axes.legend(frameon=False)
    without_box(axes)
    save_figure(figure, path)


def _draw_panel(axes: Any, study: GateStudy, gate: str) -> None:
    """A line at 1, a line per class, and a line for all images."""
    channels = range(len(study.means[gate]))
    style: dict[str, Any] = {"marker": "o" if len(channels) == 1 else ""}  # a line through one point shows nothing
    axes.axhline(1, color=GREY, linestyle=":", linewidth=1)
    for number, means in enumerate(study.class_means[gate]):
        axes.plot(channels, means, color=_COLOURS[number % len(_COLOURS)], linewidth=0.9, **style)
    axes.plot(channels, study.means[gate], color=_ALL, linewidth=1.1, **style)
    axes.set_xlabel("channel", fontsize="small")
    axes.tick_params(labelsize="small")
    without_box(axes)
