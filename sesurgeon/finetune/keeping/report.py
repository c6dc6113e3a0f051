"""``report.md``: what a run did, for people, in one page of Markdown."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from sesurgeon.errors import UsageError
from sesurgeon.files import atomic_write
from sesurgeon.finetune.keeping.classes import class_lines, confusion_lines
from sesurgeon.finetune.keeping.markdown import escaped, number, per_cent, table
from sesurgeon.finetune.keeping.milestones import Milestone, milestone_lines
from sesurgeon.finetune.keeping.records import EpochRow, best_of
from sesurgeon.finetune.scoring.gatewatch import GateMovement
from sesurgeon.finetune.scoring.measured import SHARES, Measured, score_label

_MOST_EPOCHS = 30


def write_report(
    path: Path,
    title: str,
    milestones: Sequence[Milestone],
    *,
    rows: tuple[EpochRow, ...] = (),
    metric: str | None = "top1",
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
        metric: by which the best of them is chosen; None for the last.
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
        [f"# {escaped(title)}"],
        *([escaped(note)] for note in notes),
        milestone_lines(milestones),
        _pictures(pictures, path.parent),
        _gates(gates, before_training=bool(rows) and best_of(rows, metric).epoch < 0),
        class_lines(milestones[0].evaluation, milestones[-1].evaluation),
        confusion_lines(milestones[-1].evaluation),
        _epochs(rows, metric, milestones[-1].evaluation),
    ]
    with atomic_write(path) as temporary:
        text = "\n\n".join("\n".join(lines) for lines in sections if lines)
        temporary.write_text(f"{text}\n", encoding="utf-8")


def _pictures(pictures: Sequence[Path], folder: Path) -> list[str]:
    links = [quote(Path(os.path.relpath(picture, folder)).as_posix()) for picture in pictures]
    return [f"![{escaped(picture.stem)}]({link})" for picture, link in zip(pictures, links, strict=True)]


def _gates(gates: Sequence[GateMovement], *, before_training: bool) -> list[str]:
    if not gates:
        return []
    still = [f"`{gate.gate}`" for gate in gates if not gate.moved]
    verdict = f"All {len(gates)} gates moved." if len(gates) > 1 else "The gate moved."
    if still:
        verdict = (
            f"{len(still)} of {len(gates)} gates did not move, no factor of theirs by a hundredth: {', '.join(still)}. "
            "Those blocks have learned nothing."
        )
    if before_training:
        verdict = "`best.pt` holds the state before training: what gates learned since is in `last.pt` alone."
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
        *table(header, lines),
    ]


def _epochs(rows: tuple[EpochRow, ...], metric: str | None, found: Measured) -> list[str]:
    if not rows:
        return []
    best = best_of(rows, metric)
    step = math.ceil(len(rows) / _MOST_EPOCHS)
    shown = [row for index, row in enumerate(rows) if index % step == 0 or row is best or row is rows[-1]]
    scores = [name for name in SHARES if name in best.scores]
    lines = []
    for row in shown:
        name = "before" if row.epoch < 0 else str(row.epoch + 1)
        cells = (
            name, row.phase, number(row.train_loss, ".4f"), number(row.eval_loss, ".4f"),
            *(per_cent(row.scores[score]) for score in scores), number(row.lr, ".3g"),
        )  # fmt: skip
        lines.append(tuple(f"**{cell}**" if row is best and cell else cell for cell in cells))
    left_out = "" if len(shown) == len(rows) else " Not all are shown; `summary.csv` has them."
    labels = (score_label(score, found) for score in scores)
    header = ("epoch", "phase", "training loss", "loss", *labels, "largest learning rate")
    return ["## Epochs", "", f"`best.pt` is the bold one.{left_out}", "", *table(header, lines, text=2)]
