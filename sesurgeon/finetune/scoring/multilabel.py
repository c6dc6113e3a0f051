"""The scores of a network that gives several labels per image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sesurgeon.errors import DataError
from sesurgeon.finetune.scoring.perimage import PerImage
from sesurgeon.words import counted

THRESHOLD = 0.5


@dataclass(frozen=True)
class LabelScore:
    """One class of the data.

    Attributes:
        name: of the class.
        images: the number of images that show it.
        average_precision: area under the curve of precision against recall, in per cent; None if no image shows it.
        f1: harmonic mean of precision and recall at a threshold of 0.5, in per cent; likewise.
        value: what classes are compared by, of either kind of score.
    """

    name: str
    images: int
    average_precision: float | None
    f1: float | None

    @property
    def value(self) -> float | None:
        return self.average_precision

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class MultiLabelEvaluation(PerImage):
    """What was measured for each image, and the scores that follow from it.

    Attributes:
        classes: the names of the data's classes by output index of the model, in ascending order. These are the columns
            below; other outputs are left out.
        targets: whether the image shows the class, shape (images, classes), bool.
        probabilities: sigmoid of the outputs, shape (images, classes), float32.
        losses: binary cross-entropy of each image, mean over the classes, shape (images,), float32.
    """

    targets: Tensor
    probabilities: Tensor
    losses: Tensor

    @classmethod
    def of(cls, batches: Iterable[tuple[Tensor, Tensor]], classes: Mapping[int, str]) -> MultiLabelEvaluation:
        """From batches of logits and of ones and zeros, both of shape (N, outputs)."""
        columns = list(classes)
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for all_logits, all_targets in batches:
            logits, targets = all_logits[:, columns], all_targets[:, columns]
            losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)
            found.append((targets > THRESHOLD, logits.sigmoid(), losses))
        return cls(classes, *(torch.cat(column).cpu() for column in zip(*found, strict=True)))

    @property
    def images(self) -> int:
        return len(self.targets)

    @property
    def loss(self) -> float:
        """Mean binary cross-entropy over images and classes."""
        return self.losses.double().mean().item()

    def scores(self) -> dict[str, float]:
        """The scores that an epoch can be chosen by: ``loss``, ``map`` and ``f1``.

        ``map`` is the mean average precision and ``f1`` the mean F1 at 0.5 (macro) over the classes that any image
        shows, in per cent.

        Raises:
            DataError: no image shows any class, so that nothing can be measured.
        """
        scores = self.per_class
        if not self.targets.any():
            raise DataError(f"None of the {counted(self.images, 'image')} to measure with has a label.")
        return {
            "loss": self.loss,
            "map": _mean(score.average_precision for score in scores),
            "f1": _mean(score.f1 for score in scores),
        }

    @cached_property
    def per_class(self) -> tuple[LabelScore, ...]:
        """The scores of the data's classes, in the order of the model's outputs."""
        columns = zip(self.classes.values(), self.probabilities.T, self.targets.T, strict=True)
        return tuple(_score(name, probabilities, targets) for name, probabilities, targets in columns)


def _score(name: str, probabilities: Tensor, targets: Tensor) -> LabelScore:
    from torchmetrics.functional.classification import binary_average_precision, binary_f1_score

    images = int(targets.sum())
    if images == 0:
        return LabelScore(name, 0, None, None)
    precision = binary_average_precision(probabilities, targets.long()).item()
    f1 = binary_f1_score(probabilities, targets.long(), threshold=THRESHOLD).item()
    return LabelScore(name, images, 100 * precision, 100 * f1)


def _mean(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known)
