"""The confusion matrix as a picture: which classes are taken for which."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sesurgeon.finetune.keeping.figures import GREY, new_figure, save_figure
from sesurgeon.finetune.keeping.lettering import Lettering, lettering_for
from sesurgeon.finetune.scoring.evaluation import Evaluation

_MOST_NAMED = 40  # classes; more names would overlap
_MOST_CELLS = 1000  # a side; a matrix of all classes would grow with their square
_MOST_COUNTED = 25  # classes; numbers in smaller cells cannot be read
_LETTER = 0.1  # inches


def draw_confusion(evaluation: Evaluation, path: Path) -> None:
    """Write a PNG: a row for each class of the data, a column for each class that images were taken for.

    The shade is the square root of the share of the row, so that rare mistakes show, too; the number counts images.
    With many classes there are no numbers, with more no names, and with even more several classes share a cell.

    Raises:
        OutputError: ``path`` cannot be written.
    """
    from matplotlib.colors import PowerNorm

    rows = list(evaluation.classes)
    columns = [*rows, *sorted(set(evaluation.predictions.tolist()).difference(rows))]
    many = len(columns)
    a_cell = math.ceil(many / _MOST_CELLS)
    counts = _counts(evaluation, len(rows), columns, a_cell)
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    side = min(max(4.5, 2 + 0.42 * many), 10)  # inches
    figure = new_figure(side, side)
    axes = figure.subplots()
    axes.imshow(shares.numpy(), cmap="Blues", norm=PowerNorm(0.5, 0, 1), aspect="equal", interpolation="nearest")
    lettering = lettering_for(evaluation.classes)
    if many <= _MOST_NAMED:
        _write_names(axes, rows, columns, lettering, (side - 2) / many)
    else:
        axes.set_xticks([])
        axes.set_yticks([])
    if many <= _MOST_COUNTED:
        _write_counts(axes, counts, shares)
    each = "" if a_cell == 1 else f", {a_cell} to a cell"
    order = "" if many <= _MOST_NAMED else f" ({many} classes, in the order of the model's outputs{each})"
    axes.set_xlabel(f"taken for{order}")
    axes.set_ylabel("is")
    axes.set_title(f"top-1 {evaluation.top1:.2f} % of {evaluation.images:,} images", fontsize="medium")
    axes.spines[:].set_color(GREY)
    save_figure(figure, path)


def _counts(evaluation: Evaluation, rows: int, columns: list[int], a_cell: int) -> Tensor:
    """Images by true and predicted class, ``a_cell`` classes to a cell; ``columns`` begin with those of the rows."""
    place = torch.zeros(evaluation.outputs, dtype=torch.int64)
    place[columns] = torch.arange(len(columns)) // a_cell
    high, wide = math.ceil(rows / a_cell), math.ceil(len(columns) / a_cell)
    cells = place[evaluation.labels] * wide + place[evaluation.predictions]
    return torch.bincount(cells, minlength=high * wide).view(high, wide)


def _write_names(axes: Any, rows: list[int], columns: list[int], lettering: Lettering, room: float) -> None:
    """Names beside the rows and under the columns; the latter are turned if ``room`` (inches) is too little."""
    across, down = [lettering[index] for index in columns], [lettering[index] for index in rows]
    turned = 90 if _LETTER * max(map(len, across)) > room else 0
    axes.set_xticks(range(len(columns)), across, rotation=turned, **lettering.style)
    axes.set_yticks(range(len(rows)), down, **lettering.style)
    axes.tick_params(length=0, labelsize="small")


def _write_counts(axes: Any, counts: Tensor, shares: Tensor) -> None:
    for row, column in counts.nonzero().tolist():
        colour = "white" if shares[row, column] > 0.4 else "black"
        number = f"{int(counts[row, column])}"
        axes.text(column, row, number, ha="center", va="center", color=colour, fontsize="small")
