"""The scores of a classifier on a set of images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sesurgeon.finetune.scoring.perimage import PerImage


@dataclass(frozen=True)
class ClassScore:
    """One class of the data. ``accuracy`` is in per cent; None for a class without images.

    ``value`` is what classes are compared by, of either kind of score.
    """

    name: str
    images: int
    correct: int

    @property
    def accuracy(self) -> float | None:
        return 100 * self.correct / self.images if self.images else None

    @property
    def value(self) -> float | None:
        return self.accuracy

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "accuracy": self.accuracy}


@dataclass(frozen=True, eq=False)
class Evaluation(PerImage):
    """What was measured for each image, and the scores that follow from it.

    Attributes:
        classes: the names of the data's classes by output index of the model, in ascending order.
        outputs: the number of outputs of the model.
        k: 5, or the number of outputs if that is smaller.
        labels: the correct output index of each image, shape (images,), int64.
        predictions: the index of its highest output, shape (images,), int64.
        hits: whether the label is among the ``k`` highest outputs, shape (images,), bool.
        losses: cross-entropy of each image, shape (images,), float32.
    """

    outputs: int
    k: int
    labels: Tensor
    predictions: Tensor
    hits: Tensor
    losses: Tensor

    @classmethod
    def of(cls, batches: Iterable[tuple[Tensor, Tensor]], classes: Mapping[int, str]) -> Evaluation:
        """From batches of logits (N, outputs) and labels (N,)."""
        found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        k = outputs = 0
        for logits, labels in batches:
            outputs = logits.shape[1]
            k = min(5, outputs)
            hits = (logits.topk(k).indices == labels[:, None]).any(1)
            found.append((labels, logits.argmax(1), hits, F.cross_entropy(logits, labels, reduction="none")))
        labels, predictions, hits, losses = (torch.cat(column).cpu() for column in zip(*found, strict=True))
        return cls(classes, outputs, k, labels, predictions, hits, losses)

    @property
    def images(self) -> int:
        return len(self.labels)

    @property
    def loss(self) -> float:
        """Mean cross-entropy."""
        return self.losses.double().mean().item()

    @property
    def top1(self) -> float:
        """Share of the images whose label has the highest output, in per cent."""
        return _per_cent(self.predictions == self.labels)

    @property
    def top5(self) -> float:
        """Share of the images whose label is among the ``k`` highest outputs, in per cent."""
        return _per_cent(self.hits)

    @property
    def balanced(self) -> float:
        """Mean top-1 of the classes that have images, in per cent: rare classes count like others."""
        found = [score.accuracy for score in self.per_class if score.accuracy is not None]
        return sum(found) / len(found)

    def scores(self) -> dict[str, float]:
        """The scores that an epoch can be chosen by."""
        return {"loss": self.loss, "top1": self.top1, "top5": self.top5, "balanced": self.balanced}

    @cached_property
    def per_class(self) -> tuple[ClassScore, ...]:
        """The scores of the data's classes, in the order of the model's outputs."""
        images = torch.bincount(self.labels, minlength=self.outputs).tolist()
        correct = torch.bincount(self.labels[self.predictions == self.labels], minlength=self.outputs).tolist()
        return tuple(ClassScore(name, images[index], correct[index]) for index, name in self.classes.items())


def _per_cent(hits: Tensor) -> float:
    return 100 * hits.double().mean().item()
