"""An evaluation as pictures: which classes are taken for which, and the worst mistakes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sesurgeon.errors import UsageError
from sesurgeon.finetune.data.images import Images, to_mode
from sesurgeon.finetune.keeping.figures import GREY, RED, new_figure, save_figure
from sesurgeon.finetune.keeping.lettering import Lettering, lettering_for
from sesurgeon.finetune.scoring.scores import Evaluation

_MOST_NAMED = 40  # classes; more names would overlap
_MOST_CELLS = 1000  # a side; a matrix of all classes would grow with their square
_MOST_COUNTED = 25  # classes; in more cells numbers cannot be read
_LETTER = 0.1  # inches
_TILE = 256  # pixels


def draw_confusion(evaluation: Evaluation, path: Path) -> None:
    """Write a PNG: a row for each class of the data, a column for each that its images were taken for.

    The shade is the share of the row (its square root: few mistakes show, too), the number counts images. With
    many classes there are no numbers, with more no names.

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
    """Images by what they are and what they were taken for, so many classes to a cell; rows come first in columns."""
    place = torch.zeros(evaluation.outputs, dtype=torch.int64)
    place[columns] = torch.arange(len(columns)) // a_cell
    high, wide = math.ceil(rows / a_cell), math.ceil(len(columns) / a_cell)
    cells = place[evaluation.labels] * wide + place[evaluation.predictions]
    return torch.bincount(cells, minlength=high * wide).view(high, wide)


def draw_mistakes(images: Images, evaluation: Evaluation, path: Path, most: int = 16) -> None:
    """Write a PNG of the most confident mistakes: those that left the right class the least probability.

    Each tile is an image as it was read, with what it was taken for, what it is, and the probability of that. An
    evaluation without mistakes gives a picture that says so.

    Args:
        images: those that were evaluated, in the same order.
        evaluation: what was measured.
        path: of the PNG.
        most: tiles.

    Raises:
        UsageError: ``images`` are others than were evaluated.
        DataError: an image cannot be read any more.
        OutputError: ``path`` cannot be written.
    """
    if len(images) != evaluation.images:
        raise UsageError(f"{evaluation.images} images were evaluated, {len(images)} are given.")
    worst = worst_mistakes(evaluation)
    shown = worst[:most]
    if not shown:
        figure = new_figure(5, 1.2)
        figure.text(0.5, 0.5, f"No mistakes among {evaluation.images:,} images.", ha="center", va="center")
        save_figure(figure, path)
        return
    width = min(4, len(shown))
    height = math.ceil(len(shown) / width)
    figure = new_figure(max(2.5 * width, 5), 2.9 * height + 0.8)
    lettering = lettering_for(evaluation.classes)
    tiles = figure.subplots(height, width, squeeze=False).flatten()
    for axes, index in zip(tiles, shown, strict=False):
        _draw_tile(axes, images, evaluation, index, lettering)
    for axes in tiles[len(shown) :]:
        axes.set_axis_off()
    of_all = f"The {len(shown)} worst of {len(worst):,} mistakes" if len(shown) < len(worst) else "All mistakes"
    legend = "red: taken for; black: what it is, and the probability that this got"
    figure.suptitle(f"{of_all}\n{legend}", fontsize="medium", color=GREY)
    save_figure(figure, path)


def worst_mistakes(evaluation: Evaluation) -> list[int]:
    """Indices of the images that got a wrong class, the one whose right class got the least probability first."""
    wrong = (evaluation.predictions != evaluation.labels).nonzero().flatten()
    order = evaluation.losses[wrong].argsort(descending=True, stable=True)
    indices: list[int] = wrong[order].tolist()
    return indices


def _draw_tile(axes: Any, images: Images, evaluation: Evaluation, index: int, lettering: Lettering) -> None:
    image = to_mode(images[index][0], "RGB")
    small = max(image.size) < _TILE // 2
    image.thumbnail((_TILE, _TILE))
    axes.imshow(image, interpolation="nearest" if small else "antialiased")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color(GREY)
    label, got = int(evaluation.labels[index]), int(evaluation.predictions[index])
    share = 100 * math.exp(-float(evaluation.losses[index]))
    given = f"{share:.1f} %" if share >= 0.1 else "under 0.1 %"
    axes.set_title(lettering[got], color=RED, fontsize="medium", **lettering.style)
    axes.set_xlabel(f"is {lettering[label]} ({given})", fontsize="small", **lettering.style)


def _write_names(axes: Any, rows: list[int], columns: list[int], lettering: Lettering, room: float) -> None:
    """Names beside the rows and under the columns, which are turned where they have no ``room`` (inches)."""
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
