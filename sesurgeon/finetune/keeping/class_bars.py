"""The scores of the classes as bars, for images with several labels."""

from __future__ import annotations

from pathlib import Path

from sesurgeon.finetune.keeping.figures import RED, new_figure, save_figure, without_box
from sesurgeon.finetune.keeping.lettering import lettering_for
from sesurgeon.finetune.scoring.multilabel import MultiLabelEvaluation

_MOST_SHOWN = 40
_BAR = "#a9c9e8"


def draw_classes(evaluation: MultiLabelEvaluation, path: Path) -> None:
    """Write a PNG: a bar for the average precision of each class, the worst class at the top.

    A mark shows what random outputs would score: the share of images that show the class. Of many classes only the
    worst are drawn.

    Raises:
        OutputError: ``path`` cannot be written.
    """
    lettering = lettering_for(evaluation.classes)
    found = [
        (score.average_precision, index, 100 * score.images / evaluation.images)
        for index, score in zip(evaluation.classes, evaluation.per_class, strict=True)
        if score.average_precision is not None
    ]
    worst = sorted(found)[:_MOST_SHOWN]
    places = range(len(worst))
    figure = new_figure(7, 1.4 + 0.25 * len(worst))
    axes = figure.subplots()
    axes.barh(places, [precision for precision, _, _ in worst], color=_BAR, height=0.7)
    axes.plot(
        [share for _, _, share in worst],
        places,
        "|",
        color=RED,
        markersize=13,
        markeredgewidth=2,
        label="by chance",
    )
    axes.set_yticks(places, [lettering[index] for _, index, _ in worst], fontsize="small", **lettering.style)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("average precision (%)")
    of_all = "" if len(worst) == len(found) else f", the {len(worst)} worst of {len(found)} classes"
    scores = evaluation.scores()
    axes.set_title(f"mAP {scores['map']:.2f} % on {evaluation.images:,} images{of_all}", fontsize="medium")
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), fontsize="small")
    without_box(axes)
    save_figure(figure, path)
