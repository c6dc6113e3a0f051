"""The rows of a run's tables, one per epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class EpochRow:
    """One line of ``summary.csv``.

    Attributes:
        epoch: from 0; -1 is the state before training.
        phase: the name of the epoch's phase; "" before training.
        train_loss: mean over the epoch's images; None before training.
        scores: on the validation images, by name: see :meth:`sesurgeon.finetune.Evaluation.scores`.
        lr: the largest learning rate of the epoch's last update; None before training.
    """

    epoch: int
    phase: str
    train_loss: float | None
    scores: Mapping[str, float]
    lr: float | None

    @property
    def eval_loss(self) -> float:
        return self.scores["loss"]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, with the scores named as in timm: ``eval_loss``, ``eval_top1``, …"""
        scores = {f"eval_{name}": value for name, value in self.scores.items()}
        return {"epoch": self.epoch, "phase": self.phase, "train_loss": self.train_loss, **scores, "lr": self.lr}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EpochRow:
        """The inverse of :meth:`to_dict`."""
        scores = {name.removeprefix("eval_"): data[name] for name in data if name.startswith("eval_")}
        return cls(data["epoch"], data["phase"], data["train_loss"], scores, data["lr"])


def best_of(rows: Sequence[EpochRow], metric: str | None) -> EpochRow:
    """The row with the best score, of equal ones that with the lowest loss, or else the earliest.

    Without a metric it is the last.
    """
    if metric is None:
        return rows[-1]
    sign = -1 if metric == "loss" else 1
    return max(rows, key=lambda row: (sign * row.scores[metric], -row.eval_loss, -row.epoch))


def epochs_since_best(rows: Sequence[EpochRow], metric: str | None, phase: str) -> int:
    """How many epochs of ``phase`` went by without a new best."""
    best = best_of(rows, metric)
    return sum(row.epoch > best.epoch and row.phase == phase for row in rows)
