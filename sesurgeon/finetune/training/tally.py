"""The losses of an epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class Tally:
    """The losses of an epoch so far, on this process, and the largest learning rate of the last update."""

    total: float = 0.0
    images: int = 0
    lr: float = 0.0
    unseen: list[tuple[Tensor, int]] = field(default_factory=list)

    def add(self, loss: Tensor, images: int) -> None:
        """Take in the mean ``loss`` of some images, without looking at it yet."""
        self.unseen.append((loss.detach(), images))

    def look(self) -> float:
        """The last loss that is not a finite number, or the mean so far."""
        for loss, images in self.unseen:
            value = loss.item()
            if not math.isfinite(value):
                return value
            self.total += value * images
            self.images += images
        self.unseen.clear()
        return self.mean

    @property
    def mean(self) -> float:
        return self.total / max(self.images, 1)
