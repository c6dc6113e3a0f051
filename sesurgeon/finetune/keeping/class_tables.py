"""Tables of the classes, for the report: the worst, and those that are confused most often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sesurgeon.finetune.keeping.markdown import escaped, per_cent, table
from sesurgeon.finetune.scoring.evaluation import ClassScore, Evaluation
from sesurgeon.finetune.scoring.measured import Measured
from sesurgeon.finetune.scoring.multilabel import LabelScore, MultiLabelEvaluation

_MOST_CLASSES = 10


def class_lines(before: Measured, after: Measured) -> list[str]:
    """A table of the worst classes."""
    scores: tuple[Sequence[ClassScore | LabelScore], ...] = (before.per_class, after.per_class)
    pairs = zip(*scores, strict=True)  # not by name: two classes may have the same one
    measured = [(now.value, now, once) for once, now in pairs if now.value is not None]
    worst = sorted(measured, key=lambda entry: (entry[0], entry[1].name))[:_MOST_CLASSES]
    what = "average precision" if isinstance(after, MultiLabelEvaluation) else "top-1"
    header = ("class", "images", f"{what} at first", f"{what} now")
    lines = [
        (escaped(now.name), f"{now.images:,}", per_cent(once.value), per_cent(value)) for value, now, once in worst
    ]
    heading = "Classes" if len(worst) == len(measured) else f"The {len(worst)} worst of {len(measured)} classes"
    return [f"## {heading}", "", *table(header, lines)]


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
    return ["## Most confused classes", "", *table(("is", "was taken for", "images"), lines, text=2)]
