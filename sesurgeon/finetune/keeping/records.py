"""What is written down of a run, epoch by epoch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EpochRow:
    """One line of ``summary.csv``, in timm's column names.

    Attributes:
        epoch: from 0; -1 is the state before training.
        phase: the name of the epoch's phase; "" before training.
        train_loss: mean over the epoch's images; None before training.
        eval_loss: mean cross-entropy of the validation images.
        eval_top1: accuracy in per cent.
        eval_top5: the same with five guesses (all classes, when they are fewer).
        lr: the largest learning rate of the epoch's last step; None before training.
    """

    epoch: int
    phase: str
    train_loss: float | None
    eval_loss: float
    eval_top1: float
    eval_top5: float
    lr: float | None


SUMMARY_COLUMNS = ("epoch", "train_loss", "eval_loss", "eval_top1", "eval_top5", "lr")


def best_of(rows: tuple[EpochRow, ...]) -> EpochRow:
    """The row with the highest top-1, the earliest of equals: training that gains nothing changes nothing."""
    return max(rows, key=lambda row: (row.eval_top1, -row.epoch))
