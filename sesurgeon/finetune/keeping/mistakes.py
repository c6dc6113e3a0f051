"""The worst mistakes of an evaluation as a picture."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from sesurgeon.finetune.data.images import Images, to_mode
from sesurgeon.finetune.keeping.figures import GREY, RED, new_figure, save_figure
from sesurgeon.finetune.keeping.lettering import Lettering, lettering_for
from sesurgeon.finetune.scoring.evaluation import Evaluation

_TILE = 256  # pixels


def draw_mistakes(images: Images, evaluation: Evaluation, path: Path, most: int = 16) -> None:
    """Write a PNG of the most confident mistakes: those that gave the right class the least probability.

    Each tile is an image as it was read, with its predicted class, its true class and the probability of the latter.
    Without mistakes the picture says so.

    Args:
        images: the images that were evaluated, in the same order.
        evaluation: of them.
        path: of the PNG.
        most: how many mistakes to draw.

    Raises:
        DataError: an image cannot be read any more.
        OutputError: ``path`` cannot be written.
    """
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
    """Indices of the images with a wrong prediction, in order of the probability of the right class, lowest first."""
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
