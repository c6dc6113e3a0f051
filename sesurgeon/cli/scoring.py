"""How scores look on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from sesurgeon.finetune import EpochRow, Evaluation

_MOST_CLASSES = 20
_LABELS: Mapping[str, str] = MappingProxyType(
    {"loss": "val loss", "top1": "top-1", "top5": "top-5", "balanced": "balanced top-1", "map": "mAP", "f1": "F1"}
)


def per_cent(value: float | None) -> str:
    """``98.22 %``, or a dash where there is nothing."""
    return "-" if value is None else f"{value:.2f} %"


def number(value: float) -> str:
    """A loss."""
    return f"{value:.4f}"


def score_label(name: str) -> str:
    """What a score of an epoch is called in a table."""
    return _LABELS.get(name, name)


def score_text(name: str, value: float) -> str:
    """A score of an epoch: a loss as a number, all others in per cent."""
    return number(value) if name == "loss" else per_cent(value)


def shown_scores(row: EpochRow, metric: str) -> tuple[str, ...]:
    """Those of an epoch's scores that a table shows: the usual three, and the one that epochs are chosen by."""
    usual = tuple(row.scores)[:3]
    return usual if metric in usual else (*usual, metric)


def gain(before: EpochRow, after: EpochRow, metric: str) -> str:
    """What changed in the score that epochs are chosen by, in words."""
    change = after.scores[metric] - before.scores[metric]
    if metric == "loss":
        return f"The validation loss fell by {-change:.4f}"
    label = score_label(metric)
    return f"{label[0].upper()}{label[1:]} rose by {change:.2f} points"


def score_table(found: Evaluation) -> Table:
    """Top-1, top-5 (or what there is of it), loss and images."""
    table = Table(show_header=False)
    table.add_row("top-1", per_cent(found.top1))
    table.add_row(f"top-{found.k}", per_cent(found.top5))
    table.add_row("loss", number(found.loss))
    table.add_row("images", f"{found.images:,}")
    return table


def class_table(found: Evaluation, *, all_classes: bool) -> Group:
    """Each class of the data; of many the worst only, unless all are asked for."""
    scores = found.per_class
    title = "Classes:"
    if len(scores) > _MOST_CLASSES and not all_classes:
        measured = [score for score in scores if score.accuracy is not None]
        scores = tuple(sorted(measured, key=lambda score: (score.accuracy, score.name))[:_MOST_CLASSES])
        title = f"The {len(scores)} worst of {len(found.per_class)} classes (--all lists every one):"
    table = Table()
    table.add_column("class", overflow="fold")
    for column in ("images", "correct", "top-1"):
        table.add_column(column, justify="right")
    for score in scores:
        table.add_row(score.name, f"{score.images:,}", f"{score.correct:,}", per_cent(score.accuracy))
    return Group(Text(title), table)
