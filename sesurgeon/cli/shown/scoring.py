"""How scores look on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from sesurgeon.words import spaces_shown

if TYPE_CHECKING:
    from sesurgeon.finetune import ClassScore, EpochRow, LabelScore, Measured

_MOST_CLASSES = 20


def per_cent(value: float | None) -> str:
    """``98.22 %``; a dash for None."""
    return "-" if value is None else f"{value:.2f} %"


def number(value: float) -> str:
    """A loss."""
    return f"{value:.4f}"


def score_label(name: str, found: Measured | None = None) -> str:
    """The name of a score in a table; in an evaluation of three classes, top-5 is top-3."""
    from sesurgeon.finetune.scoring import measured

    return measured.score_label(name, found)


def score_text(name: str, value: float) -> str:
    """A score of an epoch: a loss as a number, all others in per cent."""
    return number(value) if name == "loss" else per_cent(value)


def shown_scores(row: EpochRow, metric: str | None) -> tuple[str, ...]:
    """The scores of an epoch that a table shows: the usual three, and the one that chooses the best epoch, if any."""
    usual = tuple(row.scores)[:3]
    return usual if metric is None or metric in usual else (*usual, metric)


def usual_score(row: EpochRow) -> str:
    """The score that people ask for first: "top1", or "map" if images may have several labels."""
    return next(name for name in ("top1", "map") if name in row.scores)


def gain(before: EpochRow, after: EpochRow, metric: str, found: Measured | None = None) -> str:
    """How much the score that chooses the best epoch changed; ``found`` is the evaluation of ``after``, if at hand."""
    change = after.scores[metric] - before.scores[metric]
    if metric == "loss":
        return f"The validation loss fell by {-change:.4f}"
    label = score_label(metric, found)
    # not of mAP
    begun = label if label[1:2].isupper() else f"{label[0].upper()}{label[1:]}"
    if change == 0:  # of equal scores, the one with the lower loss was kept
        return f"{begun} stayed the same and the validation loss fell by {before.eval_loss - after.eval_loss:.4f}"
    return f"{begun} rose by {change:.2f} points"


def score_table(found: Measured) -> Table:
    """Top-1 and top-5, or mAP and F1; loss and number of images."""
    from sesurgeon.finetune.scoring.measured import SHARES

    table, scores = Table(show_header=False), found.scores()
    for name in SHARES:
        if name in scores:
            table.add_row(score_label(name, found), per_cent(scores[name]))
    table.add_row("loss", number(found.loss))
    table.add_row("images", f"{found.images:,}")
    if found.input_size is not None:
        table.add_row("input size", " x ".join(map(str, found.input_size)))
    return table


def class_table(found: Measured, *, all_classes: bool) -> Group:
    """A row for each class; of many classes only the worst, unless ``all_classes``."""
    from sesurgeon.finetune import Evaluation

    columns = ("images", "correct", "top-1") if isinstance(found, Evaluation) else ("images", "average precision", "F1")
    rows = [(score.value, _class_cells(score)) for score in found.per_class]
    title = "Classes:"
    if len(rows) > _MOST_CLASSES and not all_classes:
        measured = [(value, cells) for value, cells in rows if value is not None]
        title = f"The {_MOST_CLASSES} worst of {len(rows)} classes (--all lists every one):"
        rows = [*sorted(measured)[:_MOST_CLASSES]]
    table = Table()
    table.add_column("class", overflow="fold")
    for column in columns:
        table.add_column(column, justify="right")
    for _, cells in rows:
        table.add_row(*cells)
    return Group(Text(title), table)


def _class_cells(score: ClassScore | LabelScore) -> tuple[str, ...]:
    from sesurgeon.finetune import ClassScore

    named = (spaces_shown(score.name), f"{score.images:,}")
    if isinstance(score, ClassScore):
        return (*named, f"{score.correct:,}", per_cent(score.accuracy))
    return (*named, per_cent(score.average_precision), per_cent(score.f1))
