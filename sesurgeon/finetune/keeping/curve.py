"""The curve of a run as a picture: loss and a score against the epochs."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sesurgeon.finetune.keeping.figures import BLUE, GREY, new_figure, save_figure, without_box
from sesurgeon.finetune.keeping.records import EpochRow, best_of
from sesurgeon.finetune.scoring.measured import SHARES, score_label

if TYPE_CHECKING:
    from sesurgeon.finetune.training.phases import Phase

_PHASES: Mapping[str, str] = MappingProxyType({"blocks": "new parts only", "all": "everything"})
_TRAIN = "#7a869a"


def draw_curve(rows: tuple[EpochRow, ...], phases: tuple[Phase, ...], path: Path, metric: str | None = "top1") -> None:
    """Write a PNG: the losses on the left, a score on the right, against finished epochs (0: before training).

    Args:
        rows: the epochs.
        phases: of the run.
        path: of the PNG.
        metric: the score that chooses the best epoch, None for the last. Top-1 is drawn for "loss" and None.

    Raises:
        OutputError: ``path`` cannot be written.
    """
    figure = new_figure(10, 4)
    left, right = figure.subplots(1, 2)
    _draw_losses(left, rows)
    _draw_score(right, rows, metric)
    for axes in (left, right):
        _draw_phases(axes, phases)
    save_figure(figure, path)


def _draw_losses(axes: Any, rows: tuple[EpochRow, ...]) -> None:
    trained = [row for row in rows if row.train_loss is not None]
    for shown, losses, color, label in (
        (trained, [row.train_loss for row in trained], _TRAIN, "train"),
        (rows, [row.eval_loss for row in rows], BLUE, "validation"),
    ):
        axes.plot([row.epoch + 1 for row in shown], losses, "o-", color=color, label=label)
    axes.set_ylabel("loss")
    axes.legend(frameon=False)


def _draw_score(axes: Any, rows: tuple[EpochRow, ...], metric: str | None) -> None:
    shown = next(name for name in SHARES if name in rows[0].scores) if metric in ("loss", None) else metric
    best = best_of(rows, metric).scores[shown]
    axes.plot([row.epoch + 1 for row in rows], [row.scores[shown] for row in rows], "o-", color=BLUE)
    axes.axhline(rows[0].scores[shown], color=GREY, linestyle=":", linewidth=1)
    axes.plot(best_of(rows, metric).epoch + 1, best, "o", color=BLUE, markersize=11, fillstyle="none")
    which = "last" if metric is None else "best"
    axes.set_title(f"before {rows[0].scores[shown]:.2f} %, {which} {best:.2f} %", fontsize="medium", pad=18)
    axes.set_ylabel(f"validation {score_label(shown)} (%)")


def _draw_phases(axes: Any, phases: tuple[Phase, ...]) -> None:
    from matplotlib.ticker import MaxNLocator

    for before, after in pairwise(phases):
        axes.axvline(after.first_epoch, color=GREY, linestyle="--", linewidth=1)
        # on both sides of the line, where they have room even if a phase is short
        for phase, aside, side in ((before, -4, "right"), (after, 4, "left")):
            axes.annotate(
                _PHASES[phase.name], (after.first_epoch, 1), xycoords=("data", "axes fraction"), xytext=(aside, 2),
                textcoords="offset points", horizontalalignment=side, color=GREY, fontsize="small",
            )  # fmt: skip
    axes.set_xlabel("epochs")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    without_box(axes)
