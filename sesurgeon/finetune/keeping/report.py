"""``report.md``: what a run did, for people, on one page of Markdown."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from sesurgeon.files import atomic_write
from sesurgeon.finetune.keeping.class_tables import class_lines, confusion_lines
from sesurgeon.finetune.keeping.markdown import escaped, number, per_cent, table
from sesurgeon.finetune.keeping.milestones import milestone_lines
from sesurgeon.finetune.keeping.records import EpochRow, best_of
from sesurgeon.finetune.scoring.gatestatistics import GateStatistics
from sesurgeon.finetune.scoring.measured import SHARES, Measured, score_label

_MOST_EPOCHS = 30


def write_run_report(
    path: Path,
    title: str,
    milestones: Mapping[str, Measured],
    *,
    rows: tuple[EpochRow, ...] = (),
    metric: str | None = "top1",
    gates: Sequence[GateStatistics] = (),
    pictures: Sequence[Path] = (),
    notes: Sequence[str] = (),
) -> None:
    """Write a report. It has a section for everything that is given.

    Args:
        path: of the Markdown file.
        title: of the page.
        milestones: what states of the network scored, by name; at least one, in order of time, all measured on the same
            images. The first is what the others are compared with, the last is the network to ship.
        rows: the epochs.
        metric: the score that chooses the best of them; None for the last.
        gates: from :func:`watch_gates`, of the network to ship.
        pictures: PNG files in the folder of the report or below it.
        notes: sentences that the reader should see first.

    Raises:
        OutputError: ``path`` cannot be written.
    """
    found = list(milestones.values())
    first, last = found[0], found[-1]
    sections = [
        [f"# {escaped(title)}"],
        *([escaped(note)] for note in notes),
        milestone_lines(milestones),
        _pictures(pictures, path.parent),
        _gates(gates, before_training=bool(rows) and best_of(rows, metric).epoch < 0),
        class_lines(first, last),
        confusion_lines(last),
        _epochs(rows, metric, last),
    ]
    with atomic_write(path) as temporary:
        text = "\n\n".join("\n".join(lines) for lines in sections if lines)
        temporary.write_text(f"{text}\n", encoding="utf-8", errors="backslashreplace")  # of names that are no UTF-8


def _pictures(pictures: Sequence[Path], folder: Path) -> list[str]:
    links = [quote(Path(os.path.relpath(picture, folder)).as_posix()) for picture in pictures]
    return [f"![{escaped(picture.stem)}]({link})" for picture, link in zip(pictures, links, strict=True)]


def _gates(gates: Sequence[GateStatistics], *, before_training: bool) -> list[str]:
    if not gates:
        return []
    still = [f"`{gate.gate}`" for gate in gates if not gate.moved]
    verdict = f"All {len(gates)} gates moved." if len(gates) > 1 else "The gate moved."
    if still:
        verdict = (
            f"{len(still)} of {len(gates)} gates did not move (none of their factors by 0.01): {', '.join(still)}. "
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
        f"Measured on {gates[0].images:,} images. A gate without spread over images is a constant.",
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
    return ["## Epochs", "", f"The epoch in bold is `best.pt`.{left_out}", "", *table(header, lines, text=2)]
