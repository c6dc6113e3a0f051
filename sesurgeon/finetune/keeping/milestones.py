"""The table that compares the states of a network, for the report."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from sesurgeon.finetune.keeping.markdown import escaped, per_cent, table
from sesurgeon.finetune.scoring.evaluation import Evaluation
from sesurgeon.finetune.scoring.measured import SHARES, Measured, score_label

_FLATTERED = (
    "If the best epoch was chosen on the same images, its score is optimistic. Only the same training without blocks "
    "would separate the effect of the blocks from that of the training."
)


def milestone_lines(milestones: Mapping[str, Measured]) -> list[str]:
    """A table of their scores, and how significant the difference between the first and the last is.

    Args:
        milestones: what states of the network scored: "base", "after surgery", "after phase 1", "best", …
    """
    first, *later = milestones.values()
    header, lines = _scores(milestones)
    if isinstance(first, Evaluation):
        header = (*header, "fixed", "broken")
        changes = [None, *(_changes(first, found) for found in later)]
        lines = [(*line, *map(str, pair or ("", ""))) for line, pair in zip(lines, changes, strict=True)]
    return [*table(header, lines), *_comparison(milestones)]


def _scores(milestones: Mapping[str, Measured]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    *_, last = milestones.values()
    names = [name for name in SHARES if name in last.scores()]
    lines = []
    for milestone, found in milestones.items():
        scores = found.scores()
        cells = (*(per_cent(scores[name]) for name in names), f"{found.loss:.4f}", f"{found.images:,}")
        lines.append((escaped(milestone), *cells))
    return ("", *(score_label(name, last) for name in names), "loss", "images"), lines


def _comparison(milestones: Mapping[str, Measured]) -> list[str]:
    """How significant the first and the last differ; nothing if they were measured on different images."""
    if len(milestones) == 1:
        return []
    (start, first), *_, (end, last) = milestones.items()
    what = f'From "{escaped(start)}" to "{escaped(end)}"'
    if not isinstance(last, Evaluation):
        difference = last.scores()["map"] - first.scores()["map"]
        return ["", f"{what} mAP changed by {difference:+.2f} points.", _FLATTERED]
    changes = _changes(first, last)
    if changes is None:
        return []
    mended, broken = changes
    images, moved = last.images, mended + broken
    if moved == 0:
        return ["", f"{what} no image became right or wrong."]
    difference = 100 * (mended - broken) / images
    # of a mean of paired differences that are 1, 0 or -1
    error = 100 * math.sqrt(max(moved - (mended - broken) ** 2 / images, 0)) / images
    verdict = "more than two of them" if abs(difference) > 2 * error else "at most two of them: it may be chance"
    return [
        "",
        f'Mended: wrong at "{escaped(start)}" and right now; broken: the other way round.',
        f"{what} top-1 changed by {difference:+.2f} points. The standard error of this change, from the choice of the "
        f"{images:,} images, is {error:.2f} points; the change is {verdict}.",
        _FLATTERED,
    ]


def _changes(before: Measured, after: Measured) -> tuple[int, int] | None:
    """How many images became right, and how many wrong; None if the images differ."""
    if not isinstance(before, Evaluation) or not isinstance(after, Evaluation):
        return None
    if not torch.equal(before.labels, after.labels):
        return None
    was, is_now = before.predictions == before.labels, after.predictions == after.labels
    return int((is_now & ~was).sum()), int((was & ~is_now).sum())
