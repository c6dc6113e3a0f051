"""Tables of the classes, for the report: the worst, and those that are confused most often."""

from __future__ import annotations

from collections import Counter

from sesurgeon.finetune.keeping.markdown import escaped, per_cent, table
from sesurgeon.finetune.scoring.evaluation import ClassScore, Evaluation
from sesurgeon.finetune.scoring.measured import Measured
from sesurgeon.finetune.scoring.multilabel import LabelScore, MultiLabelEvaluation

_MOST_CLASSES = 10


def class_lines(before: Measured, after: Measured) -> list[str]:
    """A table of the worst classes."""
    once = {score.name: score for score in before.per_class}
    measured = [(value, score) for score in after.per_class if (value := _value(score)) is not None]
    worst = [score for _, score in sorted(measured, key=lambda entry: (entry[0], entry[1].name))[:_MOST_CLASSES]]
    what = "average precision" if isinstance(after, MultiLabelEvaluation) else "top-1"
    header = ("class", "images", f"{what} at first", f"{what} now")
    lines = [
        (escaped(score.name), f"{score.images:,}", per_cent(_value(once.get(score.name))), per_cent(_value(score)))
        for score in worst
    ]
    heading = "Classes" if len(worst) == len(measured) else f"The {len(worst)} worst of {len(measured)} classes"
    return [f"## {heading}", "", *table(header, lines)]


def _value(score: ClassScore | LabelScore | None) -> float | None:
    """The score by which classes are compared."""
    if score is None:
        return None
    return score.average_precision if isinstance(score, LabelScore) else score.accuracy


def confusion_lines(found: Measured) -> list[str]:
    """A table of the pairs of classes that are confused most often; nothing for images with several labels."""
    if not isinstance(found, Evaluation):
        return []
    wrong = found.predictions != found.labels
    pairs = Counter(zip(found.labels[wrong].tolist(), found.predictions[wrong].tolist(), strict=True))
    if not pairs:
        return []
    names = {index: escaped(name) for index, name in found.classes.items()}
    most = sorted(pairs.items(), key=lambda entry: (-entry[1], entry[0]))[:_MOST_CLASSES]
    lines = [(names.get(label, f"#{label}"), names.get(got, f"#{got}"), f"{count:,}") for (label, got), count in most]
    return ["## Taken for one another", "", *table(("is", "was taken for", "images"), lines, text=2)]
