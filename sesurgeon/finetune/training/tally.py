"""A running sum of the losses of an epoch."""

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
    unread: list[tuple[Tensor, int]] = field(default_factory=list)

    def add(self, loss: Tensor, images: int) -> None:
        """Add the mean ``loss`` of some images without reading its value, which would wait for the device."""
        self.unread.append((loss.detach(), images))

    def look(self) -> float:
        """Read the new losses: the first of them that is not finite, or else the mean of the epoch so far."""
        for loss, images in self.unread:
            value = loss.item()
            if not math.isfinite(value):
                return value
            self.total += value * images
            self.images += images
        self.unread.clear()
        return self.total / self.images
