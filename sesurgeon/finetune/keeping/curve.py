"""A run as a picture: loss and top-1 against the epochs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sesurgeon.finetune.keeping.pictures import new_figure, save_figure
from sesurgeon.finetune.keeping.records import EpochRow, best_of
from sesurgeon.finetune.training.phases import Phase

_NAMES: Mapping[str, str] = MappingProxyType(
    {"top1": "top-1", "top5": "top-5", "balanced": "balanced top-1", "map": "mAP", "f1": "F1"}
)
_TRAIN, _EVAL, _QUIET = "#7a869a", "#0b5fa5", "#8c8c8c"


def draw_curve(rows: tuple[EpochRow, ...], phases: tuple[Phase, ...], path: Path, metric: str | None = "top1") -> None:
    """Write a PNG: losses on the left, a score on the right, against finished epochs (0: before training).

    Args:
        rows: the epochs.
        phases: of the run.
        path: of the PNG.
        metric: the score by which the best epoch is chosen; for "loss" top-1 is drawn. None: it is the last.

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
        (rows, [row.eval_loss for row in rows], _EVAL, "validation"),
    ):
        axes.plot([row.epoch + 1 for row in shown], losses, "o-", color=color, label=label)
    axes.set_ylabel("loss")
    axes.legend(frameon=False)


def _draw_score(axes: Any, rows: tuple[EpochRow, ...], metric: str | None) -> None:
    shown = next(name for name in _NAMES if name in rows[0].scores) if metric in ("loss", None) else metric
    best, name = best_of(rows, metric).scores[shown], _NAMES.get(shown, shown)
    axes.plot([row.epoch + 1 for row in rows], [row.scores[shown] for row in rows], "o-", color=_EVAL)
    axes.axhline(rows[0].scores[shown], color=_QUIET, linestyle=":", linewidth=1)
    axes.plot(best_of(rows, metric).epoch + 1, best, "o", color=_EVAL, markersize=11, fillstyle="none")
    which = "last" if metric is None else "best"
    axes.set_title(f"before {rows[0].scores[shown]:.2f} %, {which} {best:.2f} %", fontsize="medium", pad=18)
    axes.set_ylabel(f"validation {name} (%)")


def _draw_phases(axes: Any, phases: tuple[Phase, ...]) -> None:
    from matplotlib.ticker import MaxNLocator

    for phase in phases:
        if len(phases) > 1:
            label = {"blocks": "new parts only", "all": "everything"}[phase.name]
            axes.annotate(
                label, (phase.first_epoch, 1), xycoords=("data", "axes fraction"), xytext=(4, 2),
                textcoords="offset points", color=_QUIET, fontsize="small",
            )  # fmt: skip
        if phase.first_epoch > 0:
            axes.axvline(phase.first_epoch, color=_QUIET, linestyle="--", linewidth=1)
    axes.set_xlabel("epochs")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
