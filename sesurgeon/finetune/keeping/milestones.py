"""The table that compares the states of a network, for the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sesurgeon.finetune.keeping.markdown import escaped, per_cent, table
from sesurgeon.finetune.scoring.evaluation import Evaluation
from sesurgeon.finetune.scoring.measured import SHARES, Measured, score_label

_FLATTERED = (
    "If the best epoch was chosen on the same images, its score is optimistic. Only the same training without blocks "
    "would separate the effect of the blocks from that of the training."
)


@dataclass(frozen=True, eq=False)
class Milestone:
    """A state of the network that was evaluated: "base", "after surgery", "after phase 1", "best", …"""

    name: str
    evaluation: Measured


def milestone_lines(milestones: Sequence[Milestone]) -> list[str]:
    """A table of their scores, and how significant the difference between the first and the last is."""
    first, last = milestones[0], milestones[-1]
    header, lines = _scores(milestones)
    if isinstance(last.evaluation, Evaluation):
        header = (*header, "mended", "broken")
        changes = [_changes(first, milestone) or ("", "") for milestone in milestones]
        lines = [(*line, *map(str, pair)) for line, pair in zip(lines, changes, strict=True)]
    return [*table(header, lines), *_comparison(first, last)]


def _scores(milestones: Sequence[Milestone]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    last = milestones[-1].evaluation
    names = [name for name in SHARES if name in last.scores()]
    lines = []
    for milestone in milestones:
        found, scores = milestone.evaluation, milestone.evaluation.scores()
        cells = (*(per_cent(scores[name]) for name in names), f"{found.loss:.4f}", f"{found.images:,}")
        lines.append((escaped(milestone.name), *cells))
    return ("", *(score_label(name, last) for name in names), "loss", "images"), lines


def _comparison(first: Milestone, last: Milestone) -> list[str]:
    """How significant the difference between the two is; nothing if they were measured on different images."""
    if first is last:
        return []
    what = f'From "{escaped(first.name)}" to "{escaped(last.name)}"'
    if not isinstance(last.evaluation, Evaluation):
        difference = last.evaluation.scores()["map"] - first.evaluation.scores()["map"]
        return ["", f"{what} mAP changed by {difference:+.2f} points.", _FLATTERED]
    changes = _changes(first, last)
    if changes is None:
        return []
    mended, broken = changes
    images, moved = first.evaluation.images, mended + broken
    if moved == 0:
        return ["", f"{what} no image became right or wrong."]
    difference = 100 * (mended - broken) / images
    # of a mean of paired differences that are 1, 0 or -1
    error = 100 * math.sqrt(max(moved - (mended - broken) ** 2 / images, 0)) / images
    verdict = "more than two of them" if abs(difference) > 2 * error else "at most two of them: it may be chance"
    return [
        "",
        f'Mended: wrong at "{escaped(first.name)}" and right now; broken: the other way round.',
        f"{what} top-1 changed by {difference:+.2f} points. The standard error of this change, from the choice of the "
        f"{images:,} images, is {error:.2f} points; the change is {verdict}.",
        _FLATTERED,
    ]


def _changes(first: Milestone, later: Milestone) -> tuple[int, int] | None:
    """How many images became right, and how many wrong; None if the images differ or both are the same milestone."""
    before, after = first.evaluation, later.evaluation
    if first is later or not isinstance(before, Evaluation) or not isinstance(after, Evaluation):
        return None
    if not torch.equal(before.labels, after.labels):
        return None
    was, is_now = before.predictions == before.labels, after.predictions == after.labels
    return int((is_now & ~was).sum()), int((was & ~is_now).sum())
