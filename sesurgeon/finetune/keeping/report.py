"""``report.md``: what a run did, for people, in one page of Markdown."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import torch

from sesurgeon.errors import UsageError
from sesurgeon.files import atomic_write
from sesurgeon.finetune.keeping.records import EpochRow, best_of
from sesurgeon.finetune.scoring.gatewatch import GateMovement
from sesurgeon.finetune.scoring.scores import Evaluation

_MOST_EPOCHS = 30
_MOST_CLASSES = 10


@dataclass(frozen=True, eq=False)
class Milestone:
    """A state of the network that was measured: "base", "after surgery", "after phase 1", "best", …"""

    name: str
    evaluation: Evaluation


def write_report(
    path: Path,
    title: str,
    milestones: Sequence[Milestone],
    *,
    rows: tuple[EpochRow, ...] = (),
    metric: str = "top1",
    gates: Sequence[GateMovement] = (),
    pictures: Sequence[Path] = (),
    notes: Sequence[str] = (),
) -> None:
    """Write a report; what is not given has no section in it.

    Args:
        path: of the Markdown file.
        title: of the page.
        milestones: in the order of time, all measured on the same images; the first is what the others are
            compared with, the last is the network that is shipped.
        rows: the epochs.
        metric: by which the best of them is chosen.
        gates: from :func:`watch_gates`, of the network that is shipped.
        pictures: PNG files beside the report or below it.
        notes: sentences that the reader should see first.

    Raises:
        UsageError: there is no milestone.
        OutputError: ``path`` cannot be written.
    """
    if not milestones:
        raise UsageError("A report needs at least one milestone.", hint="Give what was measured last.")
    sections = [
        [f"# {_escaped(title)}"],
        *([_escaped(note)] for note in notes),
        _milestones(milestones),
        _pictures(pictures, path.parent),
        _gates(gates),
        _classes(milestones[0].evaluation, milestones[-1].evaluation),
        _confusions(milestones[-1].evaluation),
        _epochs(rows, metric),
    ]
    with atomic_write(path) as temporary:
        text = "\n\n".join("\n".join(lines) for lines in sections if lines)
        temporary.write_text(f"{text}\n", encoding="utf-8")


def _milestones(milestones: Sequence[Milestone]) -> list[str]:
    first, last = milestones[0], milestones[-1]
    header = ("", "top-1", f"top-{last.evaluation.k}", "loss", "images", "mended", "broken")
    lines = []
    for milestone in milestones:
        found = milestone.evaluation
        changes = _changes(first.evaluation, found) if milestone is not first else None
        mended, broken = ("", "") if changes is None else map(str, changes)
        scores = (_per_cent(found.top1), _per_cent(found.top5), f"{found.loss:.4f}", f"{found.images:,}")
        lines.append((_escaped(milestone.name), *scores, mended, broken))
    return [*_table(header, lines), *_comparison(first, last)]


def _comparison(first: Milestone, last: Milestone) -> list[str]:
    """What the difference between the two is worth, when the same images were measured."""
    changes = _changes(first.evaluation, last.evaluation)
    if first is last or changes is None:
        return []
    mended, broken = changes
    images, moved = first.evaluation.images, mended + broken
    what = f'From "{_escaped(first.name)}" to "{_escaped(last.name)}"'
    if moved == 0:
        return ["", f"{what} no image became right or wrong."]
    difference = 100 * (mended - broken) / images
    # of a mean of paired differences that are 1, 0 or -1
    error = 100 * math.sqrt(max(moved - (mended - broken) ** 2 / images, 0)) / images
    verdict = "more than two of them" if abs(difference) > 2 * error else "at most two of them: it may be chance"
    return [
        "",
        f'Mended: wrong at "{_escaped(first.name)}" and right now; broken: the other way round.',
        f"{what} top-1 changed by {difference:+.2f} points. The standard error of that, by the choice of the "
        f"{images:,} images, is {error:.2f} points, and the change is {verdict}.",
        "Where the same images chose the best epoch, they flatter it. What the blocks did and what the training did "
        "only the same training without blocks would tell.",
    ]


def _changes(before: Evaluation, after: Evaluation) -> tuple[int, int] | None:
    """How many images became right, and how many wrong; None where the images differ."""
    if not torch.equal(before.labels, after.labels):
        return None
    was, is_now = before.predictions == before.labels, after.predictions == after.labels
    return int((is_now & ~was).sum()), int((was & ~is_now).sum())


def _pictures(pictures: Sequence[Path], folder: Path) -> list[str]:
    links = [quote(Path(os.path.relpath(picture, folder)).as_posix()) for picture in pictures]
    return [f"![{_escaped(picture.stem)}]({link})" for picture, link in zip(pictures, links, strict=True)]


def _gates(gates: Sequence[GateMovement]) -> list[str]:
    if not gates:
        return []
    still = [f"`{gate.gate}`" for gate in gates if not gate.moved]
    verdict = f"All {len(gates)} gates moved." if len(gates) > 1 else "The gate moved."
    if still:
        verdict = (
            f"{len(still)} of {len(gates)} gates did not move, no factor of theirs by a hundredth: {', '.join(still)}. "
            "Those blocks have learned nothing."
        )
    header = ("gate", "mean", "spread over images", "spread over channels", "mean distance from 1", "largest")
    lines = [
        (
            f"`{gate.gate}`",
            f"{gate.mean:.4f}",
            f"{gate.image_spread:.4f}",
            f"{gate.channel_spread:.4f}",
            f"{gate.distance:.4f}",
            f"{gate.largest:.4f}",
        )
        for gate in gates
    ]
    return [
        "## Gates",
        "",
        f"The factors by which the inserted blocks scale channels; those of a fresh block are 1. {verdict}",
        f"Seen on {gates[0].images:,} images. Without spread over images, a gate is a constant.",
        "",
        *_table(header, lines),
    ]


def _classes(before: Evaluation, after: Evaluation) -> list[str]:
    once = {score.name: score.accuracy for score in before.per_class}
    measured = [(score.accuracy, score) for score in after.per_class if score.accuracy is not None]
    worst = [score for _, score in sorted(measured, key=lambda entry: (entry[0], entry[1].name))[:_MOST_CLASSES]]
    header = ("class", "images", "top-1 at first", "top-1 now")
    lines = [
        (_escaped(score.name), f"{score.images:,}", _per_cent(once.get(score.name)), _per_cent(score.accuracy))
        for score in worst
    ]
    heading = "Classes" if len(worst) == len(measured) else f"The {len(worst)} worst of {len(measured)} classes"
    return [f"## {heading}", "", *_table(header, lines)]


def _confusions(found: Evaluation) -> list[str]:
    wrong = found.predictions != found.labels
    pairs = Counter(zip(found.labels[wrong].tolist(), found.predictions[wrong].tolist(), strict=True))
    if not pairs:
        return []
    names = {index: _escaped(name) for index, name in found.classes.items()}
    most = sorted(pairs.items(), key=lambda entry: (-entry[1], entry[0]))[:_MOST_CLASSES]
    lines = [(names.get(label, f"#{label}"), names.get(got, f"#{got}"), f"{count:,}") for (label, got), count in most]
    return ["## Taken for one another", "", *_table(("is", "was taken for", "images"), lines, text=2)]


def _epochs(rows: tuple[EpochRow, ...], metric: str) -> list[str]:
    if not rows:
        return []
    best = best_of(rows, metric)
    step = math.ceil(len(rows) / _MOST_EPOCHS)
    shown = [row for number, row in enumerate(rows) if number % step == 0 or row is best or row is rows[-1]]
    lines = []
    for row in shown:
        name = "before" if row.epoch < 0 else str(row.epoch + 1)
        cells = (
            name, row.phase, _number(row.train_loss, ".4f"), _number(row.eval_loss, ".4f"),
            _per_cent(row.scores["top1"]), _per_cent(row.scores["top5"]), _number(row.lr, ".3g"),
        )  # fmt: skip
        lines.append(tuple(f"**{cell}**" if row is best and cell else cell for cell in cells))
    left_out = "" if len(shown) == len(rows) else " Not all are shown; `summary.csv` has them."
    header = ("epoch", "phase", "training loss", "loss", "top-1", "top-5", "learning rate")
    return ["## Epochs", "", f"The best one is bold.{left_out}", "", *_table(header, lines, text=2)]


def _table(header: Sequence[str], lines: Iterable[Sequence[str]], text: int = 1) -> list[str]:
    """A table whose first columns are ``text``, the others numbers."""
    rule = [*["---"] * text, *["---:"] * (len(header) - text)]
    return [f"| {' | '.join(cells)} |" for cells in (header, rule, *lines)]


def _per_cent(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} %"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _escaped(text: str) -> str:
    """``text`` as Markdown that shows it as it is, also in the cell of a table."""
    return re.sub(r"([\\`*_\[\]<>|~$])", r"\\\1", " ".join(text.split()))
