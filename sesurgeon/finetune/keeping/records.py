"""What is written down of a run, epoch by epoch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class EpochRow:
    """One line of ``summary.csv``.

    Attributes:
        epoch: from 0; -1 is the state before training.
        phase: the name of the epoch's phase; "" before training.
        train_loss: mean over the epoch's images; None before training.
        scores: of the validation images, by name: see :meth:`sesurgeon.finetune.Evaluation.scores`.
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
        """Plain data, the scores in timm's column names: ``eval_loss``, ``eval_top1``, …"""
        scores = {f"eval_{name}": value for name, value in self.scores.items()}
        return {"epoch": self.epoch, "phase": self.phase, "train_loss": self.train_loss, **scores, "lr": self.lr}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EpochRow:
        """The inverse of :meth:`to_dict`."""
        scores = {name.removeprefix("eval_"): data[name] for name in data if name.startswith("eval_")}
        return cls(data["epoch"], data["phase"], data["train_loss"], scores, data["lr"])


def best_of(rows: Sequence[EpochRow], metric: str | None) -> EpochRow:
    """The row with the best score, the earliest of equals: training that gains nothing changes nothing.

    Without a metric, where nothing tells which one is best, it is the last.
    """
    if metric is None:
        return rows[-1]
    return max(rows, key=lambda row: (goodness(row.scores, metric), -row.epoch))


def goodness(scores: Mapping[str, float], metric: str) -> float:
    """A score turned so that more is better."""
    return -scores[metric] if metric == "loss" else scores[metric]


def epochs_since_best(rows: Sequence[EpochRow], metric: str | None, phase: str) -> int:
    """How many epochs of ``phase`` went by without a new best."""
    best = best_of(rows, metric)
    return sum(row.epoch > best.epoch and row.phase == phase for row in rows)


def summary_columns(rows: Iterable[EpochRow]) -> list[str]:
    """Those of ``summary.csv``, in timm's order; the phase is left out."""
    return [column for column in next(iter(rows)).to_dict() if column != "phase"]
